"""word_count as processes on a real Kafka: instances that are reached at other addresses than those where they listen,
clusters that answer for each other, and observers. Each has a broker or topics of its own.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from examples.word_count.service import TOPICS
from examples.word_count.topology import LINES_TOPIC, OUTPUT_TOPIC, words_of
from tests.support.broker import Cluster, free_ports
from tests.support.proxy import Proxy
from tests.support.service import Service
from tests.support.streaming import Client, Feeder

pytestmark = pytest.mark.kafka

#: An hour ago. What is much older than that Kafka deletes, or rolls and compacts, whenever it looks at its segments.
MINUTE = int(time.time()) // 60 * 60_000 - 3_600_000
SECRET = "a secret of the tests"
PATIENCE_S = 30.0
WORDS = [f"word{number}" for number in range(24)]
STORES = ["windowed-word-count", "word-count"]


class Instance(Service):
    """One process, which may listen elsewhere than on 127.0.0.1."""

    @property
    def address(self) -> tuple[str, int]:
        return self.environment["BIND"], self.port

    def get(self, target: str) -> Any:
        reply = self.request("GET", target)
        assert reply.status == 200, (target, reply, self.tail())
        return json.loads(reply.body)

    def becomes(self, target: str, wanted: Callable[[Any], bool]) -> Any:
        """Return the answer once it is as *wanted*."""
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            reply = self.request("GET", target)
            if reply.status == 200 and wanted(json.loads(reply.body)):
                return json.loads(reply.body)
            assert time.monotonic() < give_up_at, (target, reply, self.tail())
            time.sleep(0.05)

    def says(self, text: str, minute: int = 0) -> None:
        reply = self.request("POST", f"/lines?timestamp={MINUTE + minute * 60_000}", text.encode())
        assert reply.status == 200, (reply, self.tail())

    def counted(self, counts: Counter[str]) -> None:
        """Return when these are the counts, one by one and as a list."""
        wanted = [{"key": word, "value": counts[word]} for word in sorted(counts)]
        self.becomes("/state/keyvalues/word-count/all", lambda found: found == wanted)
        for word in counts:
            assert self.get(f"/state/keyvalue/word-count/{word}") == {"key": word, "value": counts[word]}


@pytest.fixture
def start(prefix: str, tmp_path: Path) -> Iterator[Callable[..., Instance]]:
    """Starts a process; it is not waited for."""
    with ExitStack() as stack:

        def start_one(name: str, broker: str, *, program: str = "", **environment: str) -> Instance:
            given = {
                "BIND": "127.0.0.1",
                "STREAMS_BOOTSTRAP_SERVERS": broker,
                "STREAMS_APPLICATION_ID": prefix + "words" + program,
                "STREAMS_SESSION_TIMEOUT_MS": "3000",
                "STREAMS_HTTP_SECRET": SECRET,
                "STREAMS_DATA_DIR": str(tmp_path / name / "state"),
                **environment,
            }
            module = "examples.word_count" + program
            found = Instance(tmp_path / name, environment=given, module=module, arguments=())
            return stack.enter_context(found).start(is_waited_for=False)

        yield start_one


def owners(instance: Instance) -> dict[str, tuple[str, int]]:
    """Return who has which word, without those whose partition is just moving (503)."""
    found = {}
    for word in WORDS:
        reply = instance.request("GET", f"/state/instance/word-count/{word}")
        assert reply.status in (200, 503), (reply, instance.tail())
        if reply.status == 200:
            document = json.loads(reply.body)
            found[word] = (document["host"], document["port"])
    return found


def both_have_words(*instances: Instance) -> dict[str, tuple[str, int]]:
    """Return who has which word, once all say the same and nobody has all."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        found = [owners(instance) for instance in instances]
        is_settled = all(one == found[0] and len(one) == len(WORDS) for one in found)
        if is_settled and len(set(found[0].values())) == len(instances):
            return found[0]
        assert time.monotonic() < give_up_at, found
        time.sleep(0.05)


def placement(instance: Instance) -> list[list[str]]:
    """Return the addresses of those that have each partition of the counts, as *instance* knows it."""
    partitions = instance.get("/metadata/stores/word-count")["partitions"]
    return [[one["address"] for one in partition["instances"]] for partition in partitions]


def at_rest(*instances: Instance) -> tuple[dict[str, tuple[str, int]], list[list[str]]]:
    """Return who has which word, and the placement, once nobody but its owner has a partition, and none is moving."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        where, placed = both_have_words(*instances), placement(instances[0])
        if all(len(addresses) == 1 for addresses in placed):
            return where, placed
        assert time.monotonic() < give_up_at, placed
        time.sleep(0.05)


def test_instances_behind_addresses_of_their_own_and_an_observer(
    start: Callable[..., Instance], kafka_broker: str
) -> None:
    """Each is reached through a proxy alone, whose address is the one that it advertises (north-south). An observer
    answers when nobody else is left."""
    with ExitStack() as stack:
        ports = dict(zip("ab", free_ports(2), strict=True))
        ways = {name: stack.enter_context(Proxy(("127.0.0.1", port))) for name, port in ports.items()}
        # b comes first and has all: of what it keeps when a comes, a has never had a copy, from which it could answer.
        instances = {}
        for name in ("b", "a"):
            address = "http://{}:{}".format(*ways[name].address)
            instances[name] = start(name, kafka_broker, PORT=str(ports[name]), STREAMS_ADDRESS=address)
            instances[name].wait_until_ready()
        a, b = instances["a"], instances["b"]
        observer = start("observer", kafka_broker, program=".observer")
        where = both_have_words(a, b)
        advertised = {name: way.address for name, way in ways.items()}
        assert set(where.values()) == set(advertised.values())
        known = [{"host": host, "port": port, "storeNames": STORES} for host, port in advertised.values()]
        for instance in (a, b):
            assert sorted(instance.get("/state/instances"), key=str) == sorted(known, key=str)

        a.says("\n".join(WORDS))
        b.says(" ".join(WORDS[::2]), minute=1)
        counts = Counter(WORDS) + Counter(WORDS[::2])
        for instance in (a, b):
            instance.counted(counts)
            for word, end, values in ((WORDS[0], 60_000, [1, 1]), (WORDS[1], 60_000, [1]), (WORDS[0], 59_999, [1])):
                target = f"/state/windowed/windowed-word-count/{word}/{MINUTE}/{MINUTE + end}"
                wanted = [
                    {"key": f"{word}@{MINUTE + number * 60_000}", "value": value} for number, value in enumerate(values)
                ]
                assert instance.becomes(target, lambda found, wanted=wanted: found == wanted) == wanted
            assert instance.request("GET", "/state/keyvalue/word-count/never").status == 404

        # The way to b is cut, where it leads through: a answers for its own words, and says so of the others.
        placed: list[list[str]] = []
        while placed != placement(a):  # Else something has moved meanwhile.
            ways["b"].heal()
            where, placed = at_rest(a, b)
            mine, others = (next(word for word in WORDS if where[word] == way.address) for way in ways.values())
            ways["b"].cut()
            assert a.get(f"/state/keyvalue/word-count/{mine}")["value"] == counts[mine]
            refused = a.request("GET", f"/state/keyvalue/word-count/{others}")
        assert (refused.status, "retry-after" in refused.headers) == (503, True), refused
        assert b.get(f"/state/keyvalue/word-count/{others}")["value"] == counts[others]
        ways["b"].heal()
        a.counted(counts)

        observer.wait_until_ready()
        observer.counted(counts)
        assert [instance.stop() for instance in (a, b)] == [0, 0]
        observer.counted(counts)
        assert observer.request("GET", "/state/keyvalue/word-count/never").status == 404
        assert observer.stop() == 0


def test_two_clusters_answer_for_each_other(
    start: Callable[..., Instance], own_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """An instance in each cluster, in networks of their own (east-west): each answers for the other's words, and has a
    copy of them. One cluster is killed: the other one answers for all at once, and then counts alone."""
    broker = own_cluster().bootstrap_servers
    networks = {"east": "127.0.1.1", "west": "127.0.2.1"}
    clusters = {}
    for name, host in networks.items():
        (port,) = free_ports(1)
        settings = {"BIND": host, "PORT": str(port), "STREAMS_ADDRESS": f"http://{host}:{port}", "STREAMS_RACK": name}
        clusters[name] = start(name, broker, STREAMS_NUM_STANDBY_REPLICAS="1", **settings)
    east, west = clusters.values()
    for instance in clusters.values():
        instance.wait_until_ready()
    where = both_have_words(east, west)
    assert {host for host, _ in where.values()} == set(networks.values())
    fact = "Chuck Norris answers in both clusters at once."
    said = east.request("POST", "/chuck-says", fact.encode())
    assert json.loads(said.body)["fact"] == fact
    west.says(" ".join(WORDS))
    counts = Counter(WORDS) + Counter(words_of(json.dumps({"fact": fact})))
    for instance in clusters.values():
        instance.counted(counts)

    def has_copies(document: Any) -> bool:
        """Every partition of the store has an owner and a standby, in different clusters."""
        has = [{one["address"]: one["role"] for one in each["instances"]} for each in document["partitions"]]
        return all(sorted(roles.values()) == ["owner", "standby"] for roles in has)

    west.becomes("/metadata/stores/word-count", has_copies)
    moved = [word for word in WORDS if where[word][0] == networks["east"]]
    east.kill()
    killed_at = time.monotonic()
    for word in moved:
        west.becomes(f"/state/keyvalue/word-count/{word}", lambda found: found["value"] == 1)
    print(f"answers for {len(moved)} words of the other cluster after {time.monotonic() - killed_at:.1f} s")
    west.says(" ".join(WORDS), minute=1)
    west.counted(counts + Counter(WORDS))
    assert west.stop() == 0


def run_with_kills(
    start: Callable[..., Instance], broker: str, prefix: str, *, lines: int, kills: int, seconds: float, seed: int
) -> None:
    """Feed *lines* over *seconds*, kill an instance again and again meanwhile, and check every count that was written
    and every window."""
    random = Random(seed)
    print("seed", seed)
    instances = [start(name, broker, PORT=str(port)) for name, port in zip("ab", free_ports(2), strict=True)]
    for instance in instances:
        instance.wait_until_ready()
    words = [f"w{number}" for number in range(max(20, lines // 200))]
    step_ms = 3_600_000 / lines
    given = [
        (b"%d" % number, " ".join(random.choices(words, k=2)).encode(), MINUTE + int(number * step_ms))
        for number in range(lines)
    ]
    with ExitStack() as stack:
        client = Client(broker, f"{prefix}client")
        stack.callback(client.close)
        feeder = Feeder(client, LINES_TOPIC, TOPICS[LINES_TOPIC], given, seconds).start()
        stack.callback(feeder.stop)
        for _ in range(kills):
            victim = random.choice(instances)
            feeder.wait(seconds / (kills + 1))
            victim.kill()
            feeder.wait(random.uniform(0.0, 1.0))
            victim.start(is_waited_for=False)
        feeder.join()
        total = 2 * lines
        wanted = {OUTPUT_TOPIC: total}
        found = client.read({OUTPUT_TOPIC: TOPICS[OUTPUT_TOPIC]}, wanted, timeout_s=60.0 + total / 300)[OUTPUT_TOPIC]
    counted: dict[str, list[int]] = {}
    for record in found:
        counted.setdefault((record.key or b"").decode(), []).append(int.from_bytes(record.value or b"", "big"))
    counts = Counter(word for _, line, _ in given for word in line.decode().split())
    assert counted == {word: list(range(1, count + 1)) for word, count in counts.items()}
    minutes = Counter((word, at_ms - at_ms % 60_000) for _, line, at_ms in given for word in line.decode().split())
    listed = [{"key": word, "value": counts[word]} for word in sorted(counts)]
    for instance in instances:
        instance.wait_until_ready()
        instance.becomes("/state/keyvalues/word-count/all", lambda answer: answer == listed)
        for word in random.sample(sorted(counts), min(len(counts), 100)):
            answer = instance.get(f"/state/windowed/windowed-word-count/{word}/0/{MINUTE * 2}")
            expected = {f"{word}@{start_ms}": count for (one, start_ms), count in minutes.items() if one == word}
            assert {entry["key"]: entry["value"] for entry in answer} == expected
    assert [instance.stop() for instance in instances] == [0, 0]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_in_two_hundred_thousand_lines(
    start: Callable[..., Instance], own_cluster: Callable[..., Cluster], prefix: str
) -> None:
    """Counts go up one by one and windows hold what was said in their minute, as in a single run that nothing
    disturbs."""
    broker = own_cluster().bootstrap_servers
    run_with_kills(start, broker, prefix, lines=200_000, kills=20, seconds=200.0, seed=4)
