"""Replicators into another Kafka as processes that are killed and stopped: the copy stays exact.

Two clusters: the run's broker holds the origin, one of the test's own the copy. The command is the product's.
"""

import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kafka.conftest import kafka_broker, own_cluster
from tests.support.cluster import wait_for
from tests.support.copies import Origin, wait_until_exact
from tests.support.dump import raw_kafka
from tests.support.service import Service

__all__ = ["kafka_broker", "own_cluster"]

_PARTITIONS = 4
_SESSION_S = 2.0
_WAIT_S = 90.0


class Scene:
    """An origin that is written to, the cluster of its copy, and two replicators of one name."""

    def __init__(self, stack: ExitStack, directory: Path, here: str, there: str) -> None:
        name = f"t{uuid.uuid4().hex[:10]}-"
        self.there = there
        self.copy = name + "copy"
        self.random = random.Random(seed := random.randrange(1 << 32))
        self.origin = Origin(here, name + "profiles", partitions=_PARTITIONS, seed=seed)
        stack.callback(self.origin.close)
        environment = {
            "PROFILES_BOOTSTRAP_SERVERS": here,
            "PROFILES_TOPIC_PREFIX": name,
            "PROFILES_APPLICATION_ID": name + "app",
            "PROFILES_SESSION_TIMEOUT_MS": str(round(_SESSION_S * 1000)),
        }
        arguments = ("replicate", "kafka", "--bootstrap-servers", there, "--topic", self.copy)
        self.replicators = [
            stack.enter_context(Service(directory / number, environment=environment, arguments=arguments))
            for number in ("one", "two")
        ]
        for replicator in self.replicators:
            replicator.start(is_waited_for=False)

    def copied(self) -> int:
        return len(raw_kafka(self.there, self.copy))

    def wait_for_progress(self, more: int = 1) -> None:
        """Write, and return once some of it is in the copy."""
        before = self.copied()
        self.origin.write(60)
        wait_for(lambda: self.copied() >= before + more, timeout_s=_WAIT_S, what=f"progress beyond {before}")

    def check(self) -> int:
        return wait_until_exact(self.origin, self.there, self.copy, timeout_s=_WAIT_S)

    def tails(self) -> str:
        return "\n".join(replicator.tail(30) for replicator in self.replicators)


@pytest.fixture
def scene(kafka_broker: str, own_cluster: Callable[..., Any], tmp_path: Path) -> Iterator[Scene]:
    there = own_cluster().bootstrap_servers
    with ExitStack() as stack:
        scene = Scene(stack, tmp_path, kafka_broker, there)
        wait_for(lambda: _exists(scene), timeout_s=_WAIT_S, what="the copy to exist")
        yield scene
        print(scene.tails())


def _exists(scene: Scene) -> bool:
    try:
        scene.copied()
    except AssertionError:
        return False
    return True


def _kill(scene: Scene) -> None:
    """kill -9 in the middle of a burst, and start again."""
    victim = scene.random.choice(scene.replicators)
    scene.origin.write(scene.random.randrange(20, 400))
    victim.kill()
    scene.origin.write(scene.random.randrange(100))
    victim.start(is_waited_for=False)


def _stop_and_wake(scene: Scene) -> None:
    """SIGSTOP for longer than the session, so that the other one takes over; then the sleeper wakes and finds out."""
    sleeper = scene.random.choice(scene.replicators)
    scene.origin.write(scene.random.randrange(20, 400))
    sleeper.freeze()
    try:
        scene.wait_for_progress()
        before = scene.copied()
        scene.origin.write(200)
        wanted = len(raw_kafka(scene.origin.bootstrap_servers, scene.origin.topic))
        wait_for(lambda: scene.copied() >= wanted, timeout_s=_WAIT_S, what=f"a take-over beyond {before}")
    finally:
        sleeper.thaw()
    scene.origin.write(scene.random.randrange(100, 300))


@pytest.mark.kafka
@pytest.mark.timeout(400)
def test_a_copy_stays_exact_while_replicators_are_killed_and_stopped(scene: Scene) -> None:
    """A kill -9 and a SIGSTOP of one of two: the copy has every record once, in order; and again after each."""
    scene.wait_for_progress()
    for harm in (_kill, _stop_and_wake):
        harm(scene)
        assert scene.check() > 0


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_copy_stays_exact_over_twenty_rounds(scene: Scene) -> None:
    """As above, 20 times each, in random order; positions go on all the time."""
    harms = [_kill, _stop_and_wake] * 20
    scene.random.shuffle(harms)
    for harm in harms:
        scene.wait_for_progress()
        harm(scene)
    records = scene.check()
    print(f"{records} records copied exactly through {len(harms)} faults")
