"""What is computed of a web server's log: accesses and bytes by host, altogether and by the minute, and which hosts
were ever seen.

    server-log --> once each --> parse --+--> logerr                 [reason, line]
                                         +--> processed-log (JSON), avro-topic (Avro)
                                         +--> by host --+--> count, sum          --> summary-...-log
                                                        +--> by the minute       --> windowed-summary-...-log
                                                        +--> membership

Lines that come from a watched file carry their place in it, and each place is taken once: whoever sends lines may send
them again whenever he is not sure, and resumes at the place that this topology has kept.
"""

from examples.weblog.avro import avro
from examples.weblog.files import FilePosition, fingerprint
from examples.weblog.lines import BadLine, LogRecord, from_members, parse, to_members
from streams.dsl import Processor, ProcessorRecord, StreamsBuilder, tumbling
from streams.dsl.api import KStream
from streams.records import Headers, header
from streams.serdes import JSON, JsonSerde
from streams.topology.subtopology import ProcessorTopology

LINES, ERRORS, JSON_RECORDS, AVRO_RECORDS = "server-log", "logerr", "processed-log", "avro-topic"
ACCESS_SUMMARY, WINDOWED_ACCESS_SUMMARY = "summary-access-log", "windowed-summary-access-log"
BYTES_SUMMARY, WINDOWED_BYTES_SUMMARY = "summary-payload-log", "windowed-summary-payload-log"
TOPICS = (
    *(LINES, ERRORS, JSON_RECORDS, AVRO_RECORDS),
    *(ACCESS_SUMMARY, WINDOWED_ACCESS_SUMMARY, BYTES_SUMMARY, WINDOWED_BYTES_SUMMARY),
)

ACCESS_COUNT, WINDOWED_ACCESS_COUNT = "access-count-per-host", "windowed-access-count-per-host"
BYTES_SUM, WINDOWED_BYTES_SUM = "payload-size-per-host", "windowed-payload-size-per-host"
SEEN_HOSTS, FILE_POSITIONS = "seen-hosts", "file-positions"

WINDOW_MS = 60_000
DAY_MS = 24 * 3600 * 1000

#: Header of a line: where it begins and ends in its file, as `begin-end` in bytes. Its key is the file's id.
PLACE = "weblog.place"


def weblog(registry_url: str | None = None) -> ProcessorTopology:
    """Return the topology. *registry_url*: of the schema registry for `avro-topic`, if there is one."""
    builder = StreamsBuilder("weblog")
    builder.add_store(FILE_POSITIONS, key=str, value=FilePosition)
    builder.add_store(SEEN_HOSTS, key=str, kind="membership", capacity=1_000_000, error_rate=0.001)

    lines = builder.stream(LINES, key=str, value=bytes).process(OnceEach, stores=[FILE_POSITIONS], name="once-each")
    parsed = lines.map_values(parse).split({"bad": lambda _, found: isinstance(found, BadLine)}, default="good")
    parsed["bad"].values().to(ERRORS, value=JSON)
    records = parsed["good"].map(by_host, key=str, value=RECORD)
    records.to(JSON_RECORDS)
    records.to(AVRO_RECORDS, value=avro(f"{AVRO_RECORDS}-value", registry_url))
    summarise(records.repartition(name="by-host"))
    return builder.build()


def summarise(records: KStream[str, LogRecord]) -> None:
    """Add all that is kept by host. The records of a host are in one partition, and so is all that is kept of it."""
    records.process(Remember, stores=[SEEN_HOSTS], name="remember")
    hosts = records.group_by_key()
    hosts.count(store=ACCESS_COUNT).to_stream().to(ACCESS_SUMMARY)
    hosts.aggregate(int, add_size, store=BYTES_SUM, value=int).to_stream().to(BYTES_SUMMARY)
    # A minute takes lines for a day: what several instances read at once does not arrive in order of time.
    minutes = hosts.windowed_by(tumbling(WINDOW_MS, grace_ms=DAY_MS))
    minutes.count(store=WINDOWED_ACCESS_COUNT).to_stream().to(WINDOWED_ACCESS_SUMMARY)
    minutes.aggregate(int, add_size, store=WINDOWED_BYTES_SUM, value=int).to_stream().to(WINDOWED_BYTES_SUMMARY)


class OnceEach(Processor[str, bytes, str, bytes]):
    """Passes on each line of a file once, and in the file's order: the one that begins where the last one ended. What
    begins before was sent again. What begins after it misses its predecessor, and will be sent again with it. Lines
    without a place, as a console producer sends them, pass as they come."""

    def process(self, record: ProcessorRecord[str, bytes]) -> None:
        place = place_of(record.headers)
        if place is not None:
            begin, end = place
            positions = self.context.store(FILE_POSITIONS)
            before: FilePosition | None = positions.get(record.key)
            if begin != (0 if before is None else before.end):
                return
            positions.put(record.key, FilePosition(begin, end, fingerprint(record.value)))
        others = tuple(each for each in record.headers if each[0] != PLACE)
        self.context.forward(record.key, record.value, headers=others)


class Remember(Processor[str, LogRecord, str, LogRecord]):
    """Keeps which hosts were ever seen."""

    def process(self, record: ProcessorRecord[str, LogRecord]) -> None:
        self.context.store(SEEN_HOSTS).add(record.key)


def place_of(headers: Headers) -> tuple[int, int] | None:
    """Return where a line begins and ends, or None. Raises ValueError for a header that does not say it."""
    found = header(headers, PLACE)
    if found is None:
        return None
    begin, _, end = found.partition(b"-")
    return int(begin), int(end)


def by_host(_: str, found: LogRecord | BadLine) -> tuple[str, LogRecord]:
    """Return *found*, which is a record, under its host."""
    assert isinstance(found, LogRecord), "the branch of good lines"
    return found.host, found


def add_size(_host: str, record: LogRecord, total: int) -> int:
    """Return *total* and the bytes that were sent."""
    return total + record.payload_size


RECORD = JsonSerde(dump=to_members, load=from_members, name="json<LogRecord>")
