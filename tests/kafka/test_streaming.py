"""Applications on real Kafka, as processes: killed and started again, they write what an undisturbed run writes."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from tests.support.streaming import CLOCK, Client, Feeder, Instance
from tests.support.streaming_topologies import INPUT, OUTPUTS, PARTITIONS, check, inputs

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
