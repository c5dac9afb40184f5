"""Topologies of tutorials, as their readers would write them, with their own data and results; see `examples`, too."""

import re
from dataclasses import dataclass
from decimal import Decimal

from streams.dsl import Processor, ProcessorRecord, StreamsBuilder, join_windows, session, tumbling
from streams.partitioner import partition_for
from streams.serdes import JSON
from streams.testing.driver import TopologyTestDriver
from streams.topology.subtopology import ProcessorTopology

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Access:
    """One line of a web server's log."""

    host: str
    endpoint: str
    reply_code: int
    payload_size: int


LINE = re.compile(r'^(\S+) \S+ \S+ \[[^]]+\] "(?:\S+) (\S+)[^"]*" (\d{3}) (\S+)$')


def parse(line: str) -> Access:
    """Return what *line*, which is one of such a log, says. A size that is no number counts as 0."""
    found = LINE.match(line)
    assert found is not None
    size = int(found[4]) if found[4].isdigit() else 0
    return Access(found[1], found[2], int(found[3]), size)


class Remember(Processor[str, Access, str, Access]):
    """Keeps which hosts were ever seen."""

    def process(self, record: ProcessorRecord[str, Access]) -> None:
        self.context.store("seen-hosts").add(record.value.host)


def weblog() -> ProcessorTopology:
    """Accesses and bytes for each host, altogether and by the minute; bad lines apart; which hosts were seen."""
    builder = StreamsBuilder("weblog")
    builder.add_store("seen-hosts", key=str, kind="membership", capacity=10_000, error_rate=0.01)
    lines = builder.stream("server-log", key=str, value=str)
    parsed = lines.split({"valid": lambda _, line: LINE.match(line) is not None}, default="invalid")
    parsed["invalid"].to("logerr")
    accesses = parsed["valid"].map_values(parse, value=Access)
    accesses.to("processed-log")
    by_host = accesses.select_key(lambda _, access: access.host, key=str)
    by_host.process(Remember, stores=["seen-hosts"])
    hosts = by_host.group_by_key(name="by-host")
    hosts.count(store="access-count-per-host").to_stream().to("summary-access-log")
    hosts.aggregate(int, lambda _, access, total: total + access.payload_size, store="payload-size-per-host", value=int)
    hosts.windowed_by(tumbling(60_000)).count(store="windowed-access-count-per-host", retention_ms=DAY_MS)
    return builder.build()


def test_weblog() -> None:
    """Counts and sums for each host, the error topic, windows of a minute, and the Bloom check."""
    line = '{host} - - [28/Aug/1995:00:00:34 -0400] "GET /pub/sex/ HTTP/1.0" 200 {size}'
    minute = 1_517_518_200_000
    with TopologyTestDriver(weblog()) as driver:
        for n, size in enumerate(["1024", "-", "500"]):
            driver.pipe_input("server-log", None, line.format(host="world.std.com", size=size), minute + n * 30_000)
        driver.pipe_input("server-log", None, line.format(host="reddit.com", size="1"), minute)
        driver.pipe_input("server-log", None, "not a line of a log", minute)
        driver.restore()
        assert driver.read_values("logerr") == [(None, "not a line of a log")]
        assert dict(driver.store("access-count-per-host").all()) == {"reddit.com": 1, "world.std.com": 3}
        assert driver.store("payload-size-per-host").get("world.std.com") == 1524
        windows = list(driver.store("windowed-access-count-per-host").fetch("world.std.com", 0, minute * 2))
        assert windows == [(minute, 2), (minute + 60_000, 1)]
        assert "world.std.com" in driver.store("seen-hosts")
        assert "world.stx.co" not in driver.store("seen-hosts")
        assert driver.read_output("processed-log")[0].value == Access("world.std.com", "/pub/sex/", 200, 1024)


def purchases() -> ProcessorTopology:
    """Purchases with the names of their products; prices keep their digits."""
    builder = StreamsBuilder("purchases")
    products = builder.table("products", key=str, value=dict)
    by_product = builder.stream("purchases", key=str, value=dict).select_key(lambda _, purchase: str(purchase["id"]))
    by_product.repartition(name="by-product-id").left_join(
        products,
        lambda purchase, product: {
            "id": purchase["id"],
            "name": product["name"] if product else "REF INCONNUE",
            "price": purchase["price"],
        },
        value=dict,
    ).to("enriched")
    return builder.build()


def test_purchases() -> None:
    """The listing of the text, to the byte, and poison that is set aside instead of stopping everything."""
    given = [
        '{"id": 1, "price": 3.45}',
        '{"id": 2, "price": 13.40}',
        '{"id": 30, "price": 1.05}',
        '{"id": 1, "price": 3.40}',
    ]
    wanted = {
        b'{"id":2,"name":"produit2","price":13.40}',
        b'{"id":30,"name":"REF INCONNUE","price":1.05}',
        b'{"id":1,"name":"produit1","price":3.40}',
        b'{"id":1,"name":"produit1","price":3.45}',
    }
    with TopologyTestDriver(
        purchases(), partitions=8, on_deserialization_error="quarantine", on_processing_error="quarantine"
    ) as driver:
        for number in (1, 2, 3):
            driver.pipe_bytes("products", b"%d" % number, b'{"id":%d, "name":"produit%d"}' % (number, number))
        driver.pipe_bytes("purchases", None, b'{"price": 1.00}')
        driver.pipe_bytes("purchases", None, b"not json")
        for purchase in given:
            driver.pipe_bytes("purchases", None, purchase.encode())
        output = driver.read_bytes("enriched")
        assert {record.value for record in output} == wanted
        assert {record.key: record.partition for record in output} == {b"1": 7, b"2": 0, b"30": 7}
        quarantined = driver.read_bytes("purchases-quarantine")
        assert [record.value for record in quarantined] == [b'{"price": 1.00}', b"not json"]


def password_requests() -> ProcessorTopology:
    """The other version of that tutorial: requests with the e-mail of their user."""
    builder = StreamsBuilder("enrichissement-demande", value=JSON)
    users = builder.table("usagers", key=str, value=dict)
    requests = builder.stream("demandes", key=str, value=dict).select_key(lambda _, request: str(request["id"]))
    requests.left_join(
        users, lambda request, user: {**request, "email": user["email"] if user else "!!! Usager inconnu !!!"}
    ).to("demandes-enrichies")
    return builder.build()


def test_password_requests() -> None:
    """Known users get their address, an unknown one the text's default."""
    with TopologyTestDriver(password_requests(), partitions=8) as driver:
        for n in (1, 2, 3):
            driver.pipe_input("usagers", str(n), {"id": n, "email": f"usager.00{n}@mail.com"})
        for n, first in ((1, "usr01"), (2, "usr02"), (30, "usr01"), (1, "usr-01")):
            driver.pipe_input("demandes", None, {"id": n, "name": "usager", "firstName": first})
        values = [record.value for record in driver.read_bytes("demandes-enrichies")]
        assert values == [
            b'{"id":1,"name":"usager","firstName":"usr01","email":"usager.001@mail.com"}',
            b'{"id":2,"name":"usager","firstName":"usr02","email":"usager.002@mail.com"}',
            b'{"id":30,"name":"usager","firstName":"usr01","email":"!!! Usager inconnu !!!"}',
            b'{"id":1,"name":"usager","firstName":"usr-01","email":"usager.001@mail.com"}',
        ]


def test_two_streams_meet_within_their_window() -> None:
    """A join of streams as a reader of Kafka Streams' documentation would write it."""
    builder = StreamsBuilder("ads")
    clicks = builder.stream("clicks", key=str, value=str)
    views = builder.stream("views", key=str, value=JSON)
    clicks.join(views, lambda click, view: f"{click} for {view}", windows=join_windows(1000), value=str).to("paid")
    with TopologyTestDriver(builder.build()) as driver:
        driver.pipe_input("views", "ad", Decimal("0.10"), 1000)
        driver.pipe_input("clicks", "ad", "click", 2000)
        driver.pipe_input("clicks", "ad", "late", 2001)
        assert driver.read_values("paid") == [("ad", "click for 0.10")]


def test_all_windows_of_a_key_lie_in_its_partition() -> None:
    """A reader of the output who knows the key knows the partition, as with Kafka Streams."""
    builder = StreamsBuilder("windows")
    clicks = builder.stream("clicks", key=str, value=str).group_by_key()
    clicks.windowed_by(tumbling(10)).count().to_stream().to("windows")
    clicks.windowed_by(session(5)).count().to_stream().to("sessions")
    with TopologyTestDriver(builder.build(), partitions=16) as driver:
        for number in range(20):
            driver.pipe_input("clicks", "key", "", number * 10)
        wanted = partition_for(b"key", 16)
        for topic in ("windows", "sessions"):
            output = driver.read_output(topic)
            assert len(output) == 20
            assert {record.partition for record in output} == {wanted}
