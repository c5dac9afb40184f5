"""One instance of weblog on the embedded log: files go in, answers come out, and nothing counts twice."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from falcon import testing

from examples.weblog import topology as t
from examples.weblog.service import PARTITIONS, WatchSettings, WeblogService
from streams.application import StreamsApplication
from streams.errors import ConfigError
from tests.examples.rig import Story, answers, tell, until
from tests.streams.application.rig import wait_until_processed

DATA = Path(__file__).parents[2] / "examples" / "weblog" / "data"
FIRST = (
    '[["204.249.225.59",1],["access9.accsyst.com",2],["cssu24.cs.ust.hk",1],["cyclom1-1-6.intersource.com",1],'
    '["d24-1.cpe.Brisbane.aone.net.au",1],["er6.rutgers.edu",1],["world.std.com",3]]'
)
SECOND = (
    '[["access9.accsyst.com",4],["cssu24.cs.ust.hk",2],["cyclom1-1-6.intersource.com",2],'
    '["d24-1.cpe.Brisbane.aone.net.au",2],["er6.rutgers.edu",2],["reddit.com",2],["world.std.com",6]]'
)


def run(directory: Path, story: Story) -> None:
    """Start an instance in *directory*, have *story* told, and stop it."""
    files = directory / "files"
    files.mkdir(exist_ok=True)
    watch = WatchSettings(files, "*.log", "here", 0.02)
    tell(
        t.weblog(),
        directory / "data",
        PARTITIONS,
        lambda app, application, queries: WeblogService(application, queries, watch).mount(app),
        story,
    )


def test_a_log_is_counted_once_over_restarts_and_moves(tmp_path: Path) -> None:
    """The tutorial's answers; a file that is touched, moved, and met again by a new process is not counted again."""
    files = tmp_path / "files"

    async def first(conductor: testing.ASGIConductor, _: StreamsApplication) -> None:
        shutil.copy(DATA / "clarknet-1.log", files)
        await answers(conductor, "/weblog/access/ALL", FIRST)
        await answers(conductor, "/weblog/bytes/world.std.com", "124532")
        await answers(conductor, "/weblog/access/COUNT", "7")
        await answers(conductor, "/weblog/access/check/world.std.com", "true")
        await answers(conductor, "/weblog/access/check/world.stx.co", "false")
        assert (await conductor.simulate_get("/weblog/access/world.stx.co")).status_code == 404

    async def second(conductor: testing.ASGIConductor, application: StreamsApplication) -> None:
        shutil.copy(DATA / "clarknet-2.log", files)
        await answers(conductor, "/weblog/access/range/a.com/z.org", SECOND)
        minutes = await until(conductor, "/weblog/access/win/world.std.com", lambda found: found.status_code == 200)
        assert sum(number for _, number in json.loads(minutes)) == 6
        positions = (await conductor.simulate_get(f"/stores/{t.FILE_POSITIONS}/all")).json["items"]
        sizes = [path.stat().st_size for path in files.iterdir()]
        assert sorted(entry["value"]["end"] for entry in positions) == sorted(sizes)
        assert not application.health().failed

    run(tmp_path, first)
    os.utime(files / "clarknet-1.log", (1, 1))
    (files / "clarknet-1.log").rename(files / "old.log")
    run(tmp_path, second)


def test_lines_of_other_producers_count_as_they_come(tmp_path: Path) -> None:
    """Whatever they send: a place that is none, a key that is no text and bytes that are none stop nobody."""

    async def story(conductor: testing.ASGIConductor, application: StreamsApplication) -> None:
        line = (DATA / "clarknet-1.log").read_bytes().splitlines()[0]
        send = application.produce
        bytewise: Any = {"key_serde": bytes, "value_serde": bytes}
        send(t.LINES, b"f", line, headers=((t.PLACE, b"nowhere"),), **bytewise)
        send(t.LINES, b"\xff", line, **bytewise)
        send(t.LINES, None, None, **bytewise)
        for _ in range(3):
            send(t.LINES, None, line, **bytewise)
        await asyncio.to_thread(wait_until_processed, application)
        await answers(conductor, "/weblog/access/204.249.225.59", "3")
        await answers(conductor, "/weblog/access?host=204.249.225.59", "3")
        assert sum(each.quarantined for each in application.counters.values()) == 2

    run(tmp_path, story)


def test_settings_of_what_is_watched(tmp_path: Path) -> None:
    """Each has a usual value; an interval that is none is refused before anything starts."""
    found = WatchSettings.from_env({"WEBLOG_DIRECTORY": str(tmp_path), "WEBLOG_POLL_INTERVAL_MS": "250"})
    assert (found.directory, found.pattern, found.poll_interval_s) == (tmp_path, "*.log", 0.25)
    assert found.source.endswith(f":{tmp_path}")
    for text in ("0", "soon", "-1"):
        with pytest.raises(ConfigError):
            WatchSettings.from_env({"WEBLOG_POLL_INTERVAL_MS": text})
