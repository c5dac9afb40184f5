"""`python -m app replicate elasticsearch` as its users have it: processes, signals, exit codes, what is printed."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.cli.main import main
from app.replication import verify as verification
from tests.e2e.conftest import NewService, kafka_environment
from tests.e2e.conftest import broker as broker  # the fixture
from tests.e2e.conftest import new_service as new_service  # the fixture
from tests.support.broker import free_ports
from tests.support.fake_search import FakeSearch
from tests.support.service import Service

pytestmark = pytest.mark.timeout(300)  # processes of Python start slowly on a busy machine

WAIT_S = 40.0
ALIAS = "profiles"


@pytest.fixture
def search() -> Iterator[FakeSearch]:
    with FakeSearch() as search:
        yield search
        assert search.unexpected == []


def wait_for(condition: Callable[[], bool], *processes: Service) -> None:
    """Return when *condition* holds."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "\n".join(one.tail() for one in processes)
        time.sleep(0.02)


def create(node: Service, name: str) -> str:
    body = json.dumps({"username": name, "email": f"{name}@mail.com"}).encode()
    answer = node.request("POST", "/api/profile", body)
    assert answer.status == 201, answer
    return str(json.loads(answer.body)["uid"])


def names(search: FakeSearch) -> set[str]:
    """Return the names that searchers find."""
    return {one["username"] for one in search.held(ALIAS).values()} if search.indices else set()


def test_the_whole_way_on_the_embedded_log(
    new_service: NewService,
    search: FakeSearch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Created, found, deleted, gone; the node is killed and comes back; the replicator is told to stop, and asked."""
    monkeypatch.setattr(verification, "PATIENCE_S", 0.1)
    node = new_service("node").start()
    port = str(free_ports(1)[0])
    arguments = ("replicate", "elasticsearch", "--url", search.url)
    replicator = Service(
        tmp_path / "replicator", environment=node.environment, arguments=(*arguments, "--metrics-port", port)
    )
    with replicator:
        bob = create(node, "bob")
        replicator.start(is_waited_for=False)
        wait_for(lambda: names(search) == {"bob"}, node, replicator)
        create(node, "eve")
        wait_for(lambda: names(search) == {"bob", "eve"}, node, replicator)
        assert node.request("DELETE", f"/api/profile/{bob}").status == 204
        wait_for(lambda: names(search) == {"eve"}, node, replicator)
        node.kill()
        node.start()
        create(node, "ann")
        wait_for(lambda: names(search) == {"eve", "ann"}, node, replicator)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        assert 'replication_outcomes_total{name="elasticsearch",outcome="applied"} 4.0' in metrics
        assert 'replication_lag_records{name="elasticsearch",partition="0"}' in metrics
        assert replicator.stop() == 0, replicator.tail()

    def run(*more: str) -> tuple[int, str]:
        """Run the command in this process; return its exit code and what it prints."""
        code = main([*arguments, *more], node.environment)
        return code, capsys.readouterr().out

    code, text = run("--once", "--json")
    assert (code, json.loads(text)["changes"]) == (0, 0)
    assert run("--verify") == (0, "2 profiles in the log, 2 in the sink: no differences\n")
    (index,) = search.indices.values()
    del index.docs[next(iter(search.held(ALIAS)))]
    code, text = run("--verify", "--json")
    assert (code, json.loads(text)["difference_count"]) == (1, 1)
    assert run("--rebuild", "--once")[0] == 0
    assert (names(search), list(search.indices)) == ({"eve", "ann"}, [f"{ALIAS}-000002"])
    assert run("--refused") == (0, "0 changes refused\n")

    create(node, "kim")
    dead, alive = f"http://127.0.0.1:{free_ports(1)[0]}", f"http://127.0.0.1:{node.port}"
    code, text = run("--once", "--json", "--source", dead, "--source", alive)
    assert (code, json.loads(text)["applied"]) == (0, 1)
    (index,) = search.indices.values()
    for _, document in index.docs.values():
        if "replication" in document:
            document["replication"]["token"] = "7"  # of another source
    assert main([*arguments, "--once"], node.environment) == 2
    assert "--rebuild" in capsys.readouterr().err

    search.indices.clear()
    search.answer("PUT", f"/{ALIAS}", b'{"settings": {"index": {}}, "mappings": {}}')
    assert main([*arguments, "--once"], node.environment) == 2
    assert "choose another name (--index)" in capsys.readouterr().err


@pytest.mark.kafka
def test_several_of_one_name_divide_the_partitions(
    broker: str, new_service: NewService, search: FakeSearch, tmp_path: Path
) -> None:
    """Each copies some; when one is killed, the other copies all."""
    environment = kafka_environment(broker)
    node = new_service("node", **environment).start()
    ports = free_ports(2)
    pair = [
        Service(
            tmp_path / f"replicator-{port}",
            environment=node.environment,
            arguments=("replicate", "elasticsearch", "--url", search.url, "--metrics-port", str(port)),
        )
        for port in ports
    ]

    def shares() -> list[set[str]]:
        """Return the partitions that each of them follows."""
        found = []
        for port in ports:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                    lines = answer.read().decode().splitlines()
            except OSError:
                lines = []
            wanted = [line for line in lines if line.startswith("replication_lag_records{")]
            found.append({line.split('partition="')[1].split('"')[0] for line in wanted})
        return found

    try:
        for one in pair:
            one.start(is_waited_for=False)
        everything = {str(number) for number in range(8)}
        wait_for(lambda: sorted(map(len, shares())) == [4, 4] and set.union(*shares()) == everything, *pair)
        wanted = {f"user{at}" for at in range(30)}
        for name in sorted(wanted):
            create(node, name)
        wait_for(lambda: names(search) == wanted, *pair)
        pair[0].kill()
        for at in range(30, 60):
            create(node, f"user{at}")
            wanted.add(f"user{at}")
        wait_for(lambda: names(search) == wanted, *pair)
        wait_for(lambda: shares()[1] == everything, *pair)
        assert pair[1].stop() == 0
    finally:
        for one in pair:
            one.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "http://user:geheim@127.0.0.1:9200"], "PROFILES_SINK_USERNAME"),
        (["--url", "http://127.0.0.1:9200", "--index", "Profiles"], "lower-case"),
    ],
)
def test_arguments_that_cannot_be_right_end_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once, with what is wrong, and no secret in it."""
    assert main(["replicate", "elasticsearch", *arguments], {}) == 2
    text = capsys.readouterr().err
    assert (message in text, "geheim" in text) == (True, False)
