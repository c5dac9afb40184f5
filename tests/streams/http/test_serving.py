"""`python -m streams serve` as a process on the embedded log: real sockets, real server, real stores on disk."""

import asyncio
import http.client
import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from streams.application.producing import Input
from streams.queries.remote import RemoteQueries
from streams.queries.stores import Entry
from tests.streams.application.rig import embedded, rows
from tests.streams.http.test_interactive import KEYS
from tests.streams.queries.rig import everything, wait_until
from tests.support.serving import ServedInstance

TOPOLOGY = "tests.streams.queries.rig:everything"
MANY = 1200
BEGIN_MS = (int(time.time()) - 3600) // 60 * 60_000  # of the last hour: older input would be removed by its age
TOPICS = {"words": 4, "names": 2}


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedInstance]:
    """An instance whose stores were filled by a process before it."""
    directory = tmp_path_factory.mktemp("served")
    with embedded(everything(), directory / "data", TOPICS) as application:
        application.wait_ready(30)
        application.producer.send("words", [Input(key, n, BEGIN_MS + n) for n, key in enumerate(KEYS)])
        application.producer.send("words", [Input(f"many-{n:04}", n, BEGIN_MS) for n in range(MANY)])
        application.producer.send("names", [Input("a", "Anna", 1)])
        # That nothing lags says nothing before every task has begun.
        wait_until(lambda: len(rows(application, "last")) == len(KEYS) + MANY)
    instance = ServedInstance(TOPOLOGY, directory, free_port(), {})
    try:
        yield instance.start().wait_ready()
    finally:
        instance.kill()


def get(instance: ServedInstance, target: str, **headers: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", instance.port, timeout=20)) as connection:
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_every_key_passes_the_real_server(served: ServedInstance) -> None:
    """Empty, with slashes, signs of percent and plus, named like routes, of any alphabet."""
    remote = RemoteQueries(served.url)
    for number, key in enumerate(KEYS):
        if key.strip("."):
            status, body = get(served, f"/stores/last/get/{quote(key, safe='')}")
            assert (status, json.loads(body)["key"], json.loads(body)["value"]) == (200, key, number)
        assert asyncio.run(remote.get("last", key)) == Entry(key, number, BEGIN_MS + number)
        windows = asyncio.run(remote.window("minutes", key)).entries
        assert [(entry.key.key, entry.value) for entry in windows] == [(key, 1)]


def test_lists_lines_and_global_tables(served: ServedInstance) -> None:
    """All of them over one connection, or a page at a time."""
    remote = RemoteQueries(served.url)

    async def scenario() -> None:
        everything = [entry async for entry in remote.scan("last")]
        assert len(everything) == MANY + len(KEYS)
        assert [entry.key.encode() for entry in everything] == sorted(entry.key.encode() for entry in everything)
        first = await remote.all("last", limit=1000)
        assert first.next is not None
        assert [*first.entries, *(await remote.all("last", limit=1000, cursor=first.next)).entries] == everything
        assert await remote.get("names", "a") == Entry("a", "Anna", 1)
        assert await remote.approximate_num_entries("last") == len(everything)
        assert (await remote.stores())["sessions"] == "session"
        owners = await remote.metadata_of("last")
        assert len({partition["owner"] for partition in owners["partitions"]}) == 1

    asyncio.run(scenario())


def test_health_and_unknown_routes(served: ServedInstance) -> None:
    """Live, ready, and problems for everything else."""
    assert get(served, "/livez")[0] == 200
    assert get(served, "/readyz") == (200, b'{"is_ready":true,"failed":[],"unread":[],"error":""}')
    for target in ("/", "/nix", "/peers", "/peers/0/ask", "/stores/last"):
        status, body = get(served, target)
        assert status in (404, 405), target
        if body:
            assert json.loads(body)["status"] == status


def test_a_second_process_on_the_directory_is_told_who_has_it(served: ServedInstance, tmp_path: Path) -> None:
    """Exit code 2, at once, and not a restart for ever."""
    data = next(each for each in served._arguments if each.endswith("/data"))
    second = ServedInstance(TOPOLOGY, tmp_path, free_port(), {}, ["--data-dir", data]).start()
    try:
        assert second.wait() == 2
        assert "is in use by process" in second.output()
    finally:
        second.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(tmp_path: Path, number: int) -> None:
    """Exit code 0; what it held is free for the next."""
    arguments = [f"--create-topic={topic}={count}" for topic, count in TOPICS.items()]
    for _ in range(2):
        instance = ServedInstance(TOPOLOGY, tmp_path, free_port(), {}, arguments).start()
        try:
            instance.wait_ready()
            assert instance.stop(number) == 0, instance.output()
        finally:
            instance.kill()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bootstrap-servers", "127.0.0.1:1", "--bind", "0.0.0.0:1"], "--address"),
        (["--bootstrap-servers", "127.0.0.1:1", "--address", "http://10.0.0.1:80"], "secret"),
        (["--bind", "nonsense"], "HOST:PORT"),
        (["--bind", "nonsense", "--address", "http://127.0.0.1:8080"], "HOST:PORT"),
        (["--bind", "127.0.0.1:65536"], "HOST:PORT"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    """Before anything begins, with exit code 2."""
    instance = ServedInstance(TOPOLOGY, tmp_path, 1, {}, arguments).start()
    try:
        assert instance.wait() == 2
        assert words in instance.output()
    finally:
        instance.kill()
