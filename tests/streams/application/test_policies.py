"""Records that cannot be processed, punctuations by the clock, and rows that have outlived their retention."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from streams.application import StreamsApplication, StreamsSettings
from streams.application.producing import Input
from streams.dsl import Processor, ProcessorContext, ProcessorRecord, StreamsBuilder, tumbling
from streams.errors import ConfigError, LogDamaged, SerdeUnavailable, StoreLocked, TopologyError
from streams.topology.subtopology import ProcessorTopology
from tests.streams.application.rig import WAIT_S, embedded, records_of, rows, stores, wait_until_processed

TOPICS = {"in": 2, "out": 2}
MINUTE_MS = 60_000


def halves() -> ProcessorTopology:
    """Sends on half of each number; odd ones cannot be."""
    builder = StreamsBuilder("halves")
    numbers = builder.stream("in", key=str, value=int)
    numbers.map_values(half).to("out", value=int)
    numbers.group_by_key().count(store="counts")
    return builder.build()


def half(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2


def send(application: StreamsApplication, *numbers: int, key: str = "a") -> None:
    application.producer.send("in", [Input(key, number, partition=0) for number in numbers])


def outputs(application: StreamsApplication) -> list[int]:
    return [int.from_bytes(record.value or b"", "big") for record in records_of(application, "out")]


def test_stop_keeps_what_came_before_and_says_where(tmp_path: Path) -> None:
    """The task of the record stops, exactly before it; another goes on, and a restart stops there again."""
    for _ in range(2):
        with embedded(halves(), tmp_path, TOPICS) as application:
            application.wait_ready(30)
            if not outputs(application):
                send(application, 2, 4, 6, 7, 8)
            application.producer.send("in", [Input("b", 20, partition=1)])
            wait_until_failed(application)
            wait_until_processed(application, but_failed=True)
            (failed,) = application.health().failed
            assert (failed.partition, failed.topic, failed.offset) == (0, "in", 3)
            assert "7 is odd" in failed.reason
            assert [number for number in outputs(application) if number != 10] == [1, 2, 3]
            assert rows(application, "counts")["a"] == 3
    assert rows_of_b(tmp_path) == 2


def rows_of_b(directory: Path) -> int:
    with embedded(halves(), directory, TOPICS) as application:
        application.wait_ready(30)
        return int(rows(application, "counts")["b"])


def wait_until_failed(application: StreamsApplication) -> None:
    end_at = time.monotonic() + WAIT_S
    while not application.health().failed:
        assert time.monotonic() < end_at, application.health()
        time.sleep(0.01)


def test_skip_goes_on(tmp_path: Path) -> None:
    """Only what the failing function was given is lost: the other branch counts the record."""
    with embedded(halves(), tmp_path, TOPICS, on_processing_error="skip") as application:
        application.wait_ready(30)
        send(application, 2, 3, 4)
        wait_until_processed(application)
        assert (outputs(application), rows(application, "counts")) == ([1, 2], {"a": 3})
        counters = application.counters[0]
        assert (counters.processed, counters.skipped, dict(counters.dropped)) == (3, 1, {"failed-processing": 1})


def test_quarantine_keeps_the_record_whole_and_once(tmp_path: Path) -> None:
    """Also bytes that no serde reads; what the record had done is undone."""
    policies = {"on_processing_error": "quarantine", "on_deserialization_error": "quarantine"}
    with embedded(halves(), tmp_path, TOPICS, **policies) as application:
        application.wait_ready(30)
        send(application, 2, 3, 4)
        application.produce("in", "a", b"no number", partition=0, key_serde=str, value_serde=bytes)
        wait_until_processed(application)
        assert (outputs(application), rows(application, "counts")) == ([1, 2], {"a": 2})
        found = records_of(application, "halves-quarantine")
        assert [record.value for record in found] == [(3).to_bytes(8, "big"), b"no number"]
        assert tuple(dict(found[0].headers)[f"__streams.errors.{name}"] for name in ("offset", "exception")) == (
            b"1",
            b"ValueError",
        )
        assert application.counters[0].quarantined == 2


@pytest.mark.parametrize("choice", ["stop", "skip", "quarantine"])
def test_a_record_with_neither_key_nor_value_goes_where_it_may(tmp_path: Path, choice: str) -> None:
    """To a topic that takes it like any other; one that is compacted refuses it, and the policy says what follows."""
    builder = StreamsBuilder("bare")
    lines = builder.stream("in", key=str, value=str)
    lines.filter(lambda key, value: value != "bad").map(lambda key, value: (None, None)).to("out", key=str, value=str)
    lines.filter(lambda key, value: value == "bad").map(lambda key, value: (None, None)).to("table", key=str, value=str)
    settings = StreamsSettings(
        data_dir=tmp_path,
        create_topics={"in": 1, "out": 1, "table": 1},
        compacted_topics=("table",),
        on_processing_error=choice,
    )
    with StreamsApplication(builder.build(), settings) as application:
        application.wait_ready(30)
        for value in ("a", "bad", "b"):
            application.produce("in", "k", value)
        if choice == "stop":
            end_at = time.monotonic() + WAIT_S
            while not application.health().failed:
                assert time.monotonic() < end_at
                time.sleep(0.05)
            (failed,) = application.health().failed
            assert (failed.topic, failed.offset) == ("in", 1)
        else:
            wait_until_processed(application)
            assert not application.health().failed
        kept = 1 if choice == "stop" else 2
        assert [(each.key, each.value) for each in records_of(application, "out")] == [(None, None)] * kept
        assert not records_of(application, "table")
        set_aside = records_of(application, "bare-quarantine") if choice == "quarantine" else []
        assert [each.value for each in set_aside] == ([b"bad"] if choice == "quarantine" else [])


def test_an_application_whose_input_is_damaged_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why, and goes on when it can be read again."""
    with embedded(halves(), tmp_path, {"in": 1, "out": 1}) as application:
        application.wait_ready(30)
        (processing,) = application._processings

        def damaged(_: float) -> None:
            raise LogDamaged("chosen by the test")

        with monkeypatch.context() as patch:
            patch.setattr(processing._reader, "poll", damaged)
            end_at = time.monotonic() + WAIT_S
            while application.is_ready:
                assert time.monotonic() < end_at
                time.sleep(0.01)
            health = application.health()
            assert (health.is_ready, health.is_live, list(health.unread)) == (
                False,
                True,
                ["LogDamaged: chosen by the test"],
            )
        application.wait_ready(30)
        assert not application.health().unread


def test_a_registry_that_is_away_stops_nothing_for_good(tmp_path: Path) -> None:
    """The same record is tried again until it is back; no policy is asked."""
    attempts: list[int] = []

    def ask(number: int) -> int:
        attempts.append(number)
        if len(attempts) < 4:
            raise SerdeUnavailable("away")
        return number

    builder = StreamsBuilder("registry")
    builder.stream("in", key=str, value=int).map_values(ask).to("out", value=int)
    with embedded(builder.build(), tmp_path, TOPICS, on_processing_error="skip") as application:
        application.wait_ready(30)
        send(application, 5)
        wait_until_processed(application)
        assert outputs(application) == [5]
        assert attempts == [5, 5, 5, 5]


class Ticker(Processor[str, int, str, int]):
    """Counts ticks of the clock."""

    def init(self, context: ProcessorContext[str, int]) -> None:
        super().init(context)
        context.schedule(50, self.tick, time="wall_clock")

    def process(self, record: ProcessorRecord[str, int]) -> None: ...

    def tick(self, now_ms: int) -> None:
        ticks = self.context.store("ticks")
        number = (ticks.get("ticks") or 0) + 1
        ticks.put("ticks", number)
        self.context.forward("ticks", number)


def test_the_clock_ticks_without_input(tmp_path: Path) -> None:
    """What a punctuation does is kept and written once, like what a record does."""
    builder = StreamsBuilder("ticker")
    builder.add_store("ticks", key=str, value=int)
    builder.stream("in", key=str, value=int).process(Ticker, stores=["ticks"]).to("out", key=str, value=int)
    for start in (1, 2):
        with embedded(builder.build(), tmp_path, {"in": 1, "out": 1}) as application:
            application.wait_ready(30)
            end_at = time.monotonic() + WAIT_S
            while len(outputs(application)) < 5 * start:
                assert time.monotonic() < end_at
                time.sleep(0.05)
            application.stop()
    with embedded(builder.build(), tmp_path, {"in": 1, "out": 1}) as application:
        application.wait_ready(30)
        ticked = outputs(application)
        assert ticked == list(range(1, len(ticked) + 1))


def test_rows_that_outlived_their_retention_leave_the_store(tmp_path: Path) -> None:
    """The store's rows are bounded by the retention, however much time the stream covers; what is left is right."""
    builder = StreamsBuilder("windows")
    stream = builder.stream("in", key=str, value=int).group_by_key()
    stream.windowed_by(tumbling(MINUTE_MS)).count(store="windows", retention_ms=10 * MINUTE_MS)
    with embedded(builder.build(), tmp_path, {"in": 1}) as application:
        application.wait_ready(30)
        for start in range(0, 600, 60):
            records = [Input("a", n, (start + n) * MINUTE_MS) for n in range(60)]
            application.producer.send("in", records)
            wait_until_processed(application)
        application.produce("in", "a", 0, timestamp_ms=600 * MINUTE_MS)  # What it says comes after all earlier rows.
        wait_until_processed(application)
        task = application.node_of("windows").thread.tasks[0]
        kept = len(task.store.scan("windows"))
        assert 10 <= kept <= 16, "a segment more than the retention at most"
        (store,) = stores(application, "windows")
        assert dict(store.fetch("a", 590 * MINUTE_MS, 600 * MINUTE_MS)) == {n * MINUTE_MS: 1 for n in range(591, 601)}


def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    """A topic that is missing, a directory in use, settings that contradict each other."""
    with pytest.raises(TopologyError, match="'in' does not exist"):
        embedded(halves(), tmp_path, {}).start()
    with embedded(halves(), tmp_path, TOPICS), pytest.raises(StoreLocked, match="in use by process"):
        embedded(halves(), tmp_path, TOPICS).start()
    for wrong in ({"role": "reader"}, {"num_standby_replicas": 1}, {"create_topics": {"in": 0}}, {"batch_ms": 0}):
        settings: dict[str, Any] = wrong
        with pytest.raises(ConfigError):
            StreamsSettings(**settings)


def test_settings_come_from_the_environment() -> None:
    """Each by its name; a wrong one is named."""
    environment = {
        "STREAMS_DATA_DIR": "/somewhere",
        "STREAMS_CREATE_TOPICS": "in=2, out=3",
        "STREAMS_BATCH_RECORDS": "5",
        "STREAMS_KAFKA_SECURITY_PROTOCOL": "SSL",
        "STREAMS_NODE_ID": "",
        "OTHER": "1",
    }
    settings = StreamsSettings.from_env(environment)
    assert (settings.data_dir, settings.create_topics) == (Path("/somewhere"), {"in": 2, "out": 3})
    assert (settings.batch_records, settings.kafka, settings.node_id) == (5, {"security_protocol": "SSL"}, None)
    for name, value in (("STREAMS_BATCH_RECORDS", "many"), ("STREAMS_NO_SUCH_THING", "1")):
        with pytest.raises(ConfigError, match=name):
            StreamsSettings.from_env({name: value})


def test_stopping_while_records_come_loses_nothing(tmp_path: Path) -> None:
    """Batches under way are finished, and the rest waits for the next start."""
    sent = 0
    for _ in range(3):
        with embedded(halves(), tmp_path, TOPICS) as application:
            application.wait_ready(30)
            is_done = threading.Event()

            def feed(application: StreamsApplication = application, is_done: threading.Event = is_done) -> None:
                nonlocal sent
                while not is_done.is_set():
                    send(application, *([2] * 50))
                    sent += 50

            thread = threading.Thread(target=feed)
            thread.start()
            time.sleep(0.3)
            is_done.set()
            thread.join(WAIT_S)
    with embedded(halves(), tmp_path, TOPICS) as application:
        application.wait_ready(30)
        wait_until_processed(application)
        assert len(outputs(application)) == sent
        assert rows(application, "counts") == {"a": sent}
