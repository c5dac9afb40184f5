"""Applications on real Kafka, as processes: killed and started again, they write what an undisturbed run writes."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from streams.application import StreamsApplication, StreamsSettings
from streams.application.producing import Input
from streams.dsl import StreamsBuilder
from streams.errors import TopologyError
from tests.streams.application.rig import rows, wait_until_processed
from tests.support.streaming import CLOCK, Client, Feeder, Instance
from tests.support.streaming_topologies import COUNTS, INPUT, OUTPUTS, PARTITIONS, check, counting, inputs, remembering

pytestmark = pytest.mark.kafka


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def run_with_kills(
    stack: ExitStack, broker: str, prefix: str, directory: Path, *, records: int, kills: int, seconds: float, seed: int
) -> None:
    """Feed *records* over *seconds*, kill an instance again and again meanwhile, and check all that was written."""
    random = Random(seed)
    print("seed", seed)
    client = Client(broker, f"{prefix}client")
    stack.callback(client.close)
    client.create({prefix + INPUT: PARTITIONS, **{prefix + topic: n for topic, n in OUTPUTS.items()}})
    module = directory / f"{prefix.strip('-')}.py"
    module.write_text(f"from tests.support.streaming_topologies import counting\n\ntopology = counting({prefix!r})\n")
    environment = {
        "STREAMS_BOOTSTRAP_SERVERS": broker,
        "STREAMS_SESSION_TIMEOUT_MS": "3000",
        "STREAMS_NUM_STANDBY_REPLICAS": "1",
        "PYTHONPATH": f"{Path(__file__).parents[2]}:{directory}",
    }
    instances = [Instance(f"{module.stem}:topology", directory / name, environment) for name in ("a", "b")]
    for instance in instances:
        stack.callback(instance.kill)
        instance.start()
    given = inputs(records, seed, CLOCK.time_ms() - 3_600_000)
    feeder = Feeder(client, prefix + INPUT, PARTITIONS, given, seconds).start()
    stack.callback(feeder.stop)
    for _ in range(kills):
        victim = random.choice(instances)
        feeder.wait(seconds / (kills + 1))
        victim.kill()
        feeder.wait(random.uniform(0.0, 1.0))
        victim.start()
    feeder.join()
    wanted = {prefix + topic: records for topic in OUTPUTS}
    found = client.read({prefix + topic: n for topic, n in OUTPUTS.items()}, wanted, timeout_s=60.0 + records / 300)
    check(given, found, prefix)
    for instance in instances:
        assert instance.stop() == 0, instance.output()[-4000:]


@pytest.mark.timeout(180)
def test_what_is_killed_and_started_again_writes_every_result_once(
    stack: ExitStack, kafka_broker: str, prefix: str, tmp_path: Path
) -> None:
    """Two instances, four kills while records come in."""
    run_with_kills(stack, kafka_broker, prefix, tmp_path, records=8_000, kills=4, seconds=20.0, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_twenty_kills_in_two_hundred_thousand_records(
    stack: ExitStack, kafka_broker: str, prefix: str, tmp_path: Path
) -> None:
    """The same for longer."""
    run_with_kills(stack, kafka_broker, prefix, tmp_path, records=200_000, kills=20, seconds=200.0, seed=2)


def test_observers_and_global_tables_have_everything(kafka_broker: str, prefix: str, tmp_path: Path) -> None:
    """An observer follows the stores of an application and takes no part in it; another application has a topic whole
    as a global table, before it is ready."""
    kafka = {"bootstrap_servers": kafka_broker, "session_timeout_ms": 3000}
    topics = {prefix + INPUT: PARTITIONS, **{prefix + topic: number for topic, number in OUTPUTS.items()}}
    given = inputs(500, 3, CLOCK.time_ms() - 60_000)
    wanted = Counter(key.decode() for key, _, _ in given)
    builder = StreamsBuilder(f"{prefix}global")
    builder.global_table(prefix + COUNTS, key=str, value=int, store="everywhere")
    with StreamsApplication(
        counting(prefix), StreamsSettings(data_dir=tmp_path / "member", create_topics=topics, **kafka)
    ) as member:
        member.wait_ready(40)
        records = [Input(key.decode(), value.decode(), at_ms) for key, value, at_ms in given]
        member.producer.send(prefix + INPUT, records)
        wait_until_processed(member)
        assert rows(member, "counts") == wanted
        with StreamsApplication(
            counting(prefix), StreamsSettings(data_dir=tmp_path / "observer", role="observer", **kafka)
        ) as observer:
            observer.wait_ready(40)
            assert rows(observer, "counts") == wanted
            assert (observer.counters, observer.lag()) == ({}, {})
            assert not observer.node_of("counts").thread.owned
        with StreamsApplication(builder.build(), StreamsSettings(data_dir=tmp_path / "global", **kafka)) as everywhere:
            everywhere.wait_ready(40)
            assert everywhere._globals is not None
            stores = everywhere._globals.stores()
            assert stores is not None
            assert dict(stores["everywhere"].all()) == wanted
            assert stores["everywhere"].get(next(iter(wanted))) == wanted[next(iter(wanted))]


@pytest.mark.timeout(180)
def test_a_store_without_a_changelog_stays_with_its_directory(kafka_broker: str, prefix: str, tmp_path: Path) -> None:
    """It is there after a restart in order, and empty elsewhere, and where it was when its task comes back."""
    name = f"{prefix}remembering"
    topics = {f"{name}-in": 2, f"{name}-out": 2}
    for directory, wanted in (("a", 3), ("a", 6), ("b", 3), ("a", 3)):
        settings = StreamsSettings(
            data_dir=tmp_path / directory, bootstrap_servers=kafka_broker, session_timeout_ms=3000, create_topics=topics
        )
        with StreamsApplication(remembering(name), settings) as application:
            application.wait_ready(40)
            application.producer.send(f"{name}-in", [Input("k", str(n)) for n in range(3)])
            wait_until_processed(application)
            assert rows(application, "seen") == {"k": wanted}, directory
            assert not [topic for node in application.nodes.values() for topic in node.topic_ids if "seen" in topic]


@pytest.mark.timeout(120)
def test_nothing_left_is_no_lag(kafka_broker: str, prefix: str, tmp_path: Path) -> None:
    """Also of topics that end with what a transaction has left: a committed one that made the input of the next
    sub-topology, and one of somebody else's that was aborted; and after a restart."""
    builder = StreamsBuilder(f"{prefix}lag")
    lines = builder.stream(prefix + INPUT, key=str, value=str)
    lines.group_by(lambda _, value: value, key=str, value=str).count(store="counts")
    settings = StreamsSettings(
        data_dir=tmp_path, create_topics={prefix + INPUT: 1}, bootstrap_servers=kafka_broker, session_timeout_ms=3000
    )
    producer = KafkaProducer(bootstrap_servers=kafka_broker, transactional_id=f"{prefix}other")
    for start in (1, 2):
        with StreamsApplication(builder.build(), settings) as application:
            application.wait_ready(40)
            application.produce(prefix + INPUT, "k", "v")
            wait_for_all(application, {"v": start})
            if start == 1:
                producer.init_transactions()
            producer.begin_transaction()
            producer.send(prefix + INPUT, b"v", b"k").get(10)
            producer.abort_transaction()
            wait_for_all(application, {"v": start})
            assert len(application.lag()) == 2
    producer.close()


@pytest.mark.timeout(120)
def test_an_input_topic_that_was_deleted_is_told_of(
    kafka_broker: str, prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once in the log, and in health."""
    builder = StreamsBuilder(f"{prefix}gone")
    builder.stream(prefix + INPUT, key=str, value=str).group_by_key().count(store="counts")
    settings = StreamsSettings(
        data_dir=tmp_path, create_topics={prefix + INPUT: 1}, bootstrap_servers=kafka_broker, session_timeout_ms=3000
    )
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker)
    with StreamsApplication(builder.build(), settings) as application:
        application.wait_ready(40)
        application.produce(prefix + INPUT, "k", "v")
        wait_until_processed(application)
        admin.delete_topics([prefix + INPUT])
        end_at = time.monotonic() + 40
        while not application.health().unread:
            assert time.monotonic() < end_at
            time.sleep(0.1)
        time.sleep(3.0)  # so long it would be told of three times
        health = application.health()
        assert prefix + INPUT in health.unread[0]
        assert not health.is_ready
        told = [each.message for each in caplog.records if prefix + INPUT in each.message]
        assert len(told) == 1, told
    admin.close()


def wait_for_all(application: StreamsApplication, counts: dict[str, int]) -> None:
    """Return when there is no lag, and *counts* are counted."""
    end_at = time.monotonic() + 15
    while rows(application, "counts") != counts or any(application.lag().values()):
        assert time.monotonic() < end_at, (rows(application, "counts"), application.lag())
        time.sleep(0.1)


def test_a_missing_topic_is_named_and_nothing_is_left_open(kafka_broker: str, prefix: str, tmp_path: Path) -> None:
    """On Kafka topics of users are not made unless the settings say so."""
    settings = StreamsSettings(data_dir=tmp_path, bootstrap_servers=kafka_broker)
    for _ in range(2):  # The directory is free again after the first attempt.
        with pytest.raises(TopologyError, match=f"{prefix}{INPUT}"):
            StreamsApplication(counting(prefix), settings).start()
