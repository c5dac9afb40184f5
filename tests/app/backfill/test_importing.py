"""The import against a service that fails in every way: each line is settled once, nothing is created twice, and what
is told as settled is settled."""

import asyncio
import io
import json
import random
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from app.backfill.checkpoint import Tally
from app.backfill.client import place_of
from app.backfill.errors import NobodyAnswers, NotTheService, WrongFiles
from app.backfill.importing import BATCH_LINES, Importer
from app.backfill.lines import Line, Mark, read_lines
from streams.clock import SystemClock
from tests.app.backfill.service import TOPIC_ID, FakeService, Fault
from tests.support.broker import free_ports


class Told:
    """Notes what it is told, and that it is told in order."""

    def __init__(self) -> None:
        self.rejected: list[tuple[int, dict[str, Any]]] = []
        self.mark = Mark()
        self.tally = Tally()

    def refused(self, line: Line, reason: dict[str, Any]) -> None:
        assert not self.rejected or self.rejected[-1][0] < line.number
        self.rejected.append((line.number, reason))

    def checkpoint(self, mark: Mark, tally: Tally) -> None:
        assert mark >= self.mark
        self.mark, self.tally = mark, tally


def text_of(lines: Sequence[object]) -> bytes:
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


def people(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"username": f"p{n}", "email": f"Person{n}@mail.com"} for n in range(start, start + count)]


def run(test: Callable[[FakeService], Coroutine[Any, Any, None]]) -> None:
    async def body() -> None:
        async with FakeService() as service:
            await test(service)

    asyncio.run(body())


async def bring_in(service: FakeService, text: bytes, *, start: Mark | None = None, **options: Any) -> Told:
    """Import *text* into *service*."""
    told = Told()
    urls = options.pop("urls", [service.url])
    importer = Importer(
        places=[place_of(url) for url in urls],
        source=options.pop("source", None),
        told=told,
        clock=SystemClock(),
        **options,
    )
    start = start or Mark()
    told.mark = start
    await importer.run(read_lines(io.BytesIO(text), start), start, Tally())
    assert told.mark == importer.mark
    return told


def test_every_line_is_settled_and_several_requests_are_under_way() -> None:
    """Created, refused and already there add up to the lines; the mark is the end."""

    async def body(service: FakeService) -> None:
        lines: list[object] = [*people(2000)]
        lines[700] = b"{"
        lines[1500] = {"username": "x", "email": "nobody"}
        lines[1600] = b" "
        text = text_of(lines)
        told = await bring_in(service, text)
        assert (told.tally.created, told.tally.already_there, told.tally.refused) == (1997, 0, 2)
        assert [number for number, _ in told.rejected] == [701, 1501]
        assert told.tally.reasons == {"malformed-json": 1, "validation-failed": 1}
        assert told.mark == Mark(len(text), 2000)
        assert service.most_at_once == 4
        assert max(map(len, service.requests)) == BATCH_LINES

    run(body)


def test_the_same_again_changes_nothing_and_another_content_is_a_conflict() -> None:
    """Compared as the service shows it: the domain in lower case, the rest as given."""

    async def body(service: FakeService) -> None:
        lines = people(300)
        await bring_in(service, text_of(lines))
        for one in service.profiles.values():
            one["email"] = one["email"].replace("Mail.COM", "mail.com")
        before = dict(service.profiles)
        lines[5] = {"username": "other", "email": "person5@mail.com"}
        lines[6] = {"username": "p6", "email": "Person6@MAIL.com"}
        told = await bring_in(service, text_of(lines))
        assert (told.tally.created, told.tally.already_there, told.tally.refused) == (0, 299, 1)
        number, reason = told.rejected[0]
        existing = service.profiles["person5@mail.com"]["uid"]
        assert (number, reason["reason"], reason["existing_uid"]) == (6, "email-taken", existing)
        assert "@" not in json.dumps(reason)
        assert service.profiles == before

    run(body)


FAULTS = {
    "refused": Fault(503, acts=False),
    "refused for a while": Fault(503, acts=False, retry_after="0"),
    "too many": Fault(429, acts=False),
    "unknown, done": Fault(504, acts=True),
    "unknown, not done": Fault(504, acts=False),
    "each line unknown, done": Fault(504, acts=True, of_lines=True),
    "a gateway's": Fault(502, acts=False),
    "cut before": Fault(0, acts=False),
    "cut in the answer": Fault(0, acts=True),
    "broken": Fault(500, acts=False),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_after_any_failure_nothing_is_missing_and_nothing_is_twice(fault: str) -> None:
    """The line is sent again, and what was done the first time is found to be there."""

    async def body(service: FakeService) -> None:
        lines = [*people(600), {"uid": str(uuid.uuid4()), "username": "r", "email": "r@mail.com", "version": 7}]
        service.faults.extend([FAULTS[fault]] * 3)
        told = await bring_in(service, text_of(lines))
        assert (told.tally.created + told.tally.already_there, told.tally.refused) == (601, 0)
        assert service.created == len(service.profiles) == 601

    run(body)


def test_random_failures() -> None:
    """Five runs with three failures in ten requests, of all kinds; the seed is in the message."""
    seed = random.randrange(10**6)
    draw = random.Random(seed)

    async def body(service: FakeService) -> None:
        kinds = [fault for name, fault in FAULTS.items() if name != "broken"]
        service.faults.extend(draw.choice(kinds) if draw.random() < 0.3 else Fault(200, acts=True) for _ in range(40))
        lines = people(1500)
        told = await bring_in(service, text_of(lines))
        assert service.created == len(service.profiles) == 1500, f"seed {seed}"
        assert (told.tally.refused, told.mark.lines) == (0, 1500), f"seed {seed}"

    for _ in range(5):
        run(body)


def test_of_two_lines_with_one_email_the_first_wins() -> None:
    """Near each other or far: they are never under way together. The same line twice is there already."""

    async def body(service: FakeService) -> None:
        lines = people(1000)
        lines[1] = {"username": "late", "email": "PERSON0@mail.com"}
        lines[400] = {"username": "later", "email": "person0@mail.com"}
        lines[999] = dict(lines[0])
        told = await bring_in(service, text_of(lines))
        assert service.profiles["person0@mail.com"]["username"] == "p0"
        assert [number for number, _ in told.rejected] == [2, 401]
        assert told.tally.already_there == 1

    run(body)


def test_a_line_at_which_the_service_breaks_down_is_found_and_refused() -> None:
    """The others of its request are taken."""

    async def body(service: FakeService) -> None:
        service.poison = "Person3@mail.com"
        told = await bring_in(service, text_of(people(5)))
        assert [(number, reason["reason"]) for number, reason in told.rejected] == [(4, "fault-of-the-service")]
        assert len(service.profiles) == 4

    run(body)


def test_requests_shrink_where_somebody_takes_only_small_ones() -> None:
    """A proxy's limit is met by half the lines; a line that is too large alone is refused."""

    async def body(service: FakeService) -> None:
        service.max_bytes = 1000
        lines: list[object] = [*people(50), {"username": "x" * 2000, "email": "x@mail.com"}]
        lines.append({"username": "x" * 70_000, "email": "y@mail.com"})
        told = await bring_in(service, text_of(lines))
        assert len(service.profiles) == 50
        assert [reason["reason"] for _, reason in told.rejected] == ["payload-too-large"] * 2

    run(body)


def test_an_import_goes_on_from_any_mark() -> None:
    """Whatever an earlier run told of last; the lines are numbered as in the whole input."""

    async def body(service: FakeService) -> None:
        lines: list[object] = [*people(10)]
        lines[8] = b"[]"
        text = text_of(lines)
        ends = [line.end for line in read_lines(io.BytesIO(text), Mark())]
        for number, end in enumerate(ends, start=1):
            service.profiles.clear()
            told = await bring_in(service, text, start=Mark(end, number))
            assert len(service.profiles) == 10 - number - (number < 9)
            assert [place for place, _ in told.rejected] == ([9] if number < 9 else [])

    run(body)


def test_other_nodes_take_over() -> None:
    """Of three addresses one answers: everything arrives there."""

    async def body(service: FakeService) -> None:
        dead = [f"http://127.0.0.1:{port}" for port in free_ports(2)]
        told = await bring_in(service, text_of(people(1000)), urls=[dead[0], service.url, dead[1]])
        assert told.tally.created == 1000

    run(body)


def test_a_service_that_stays_away_ends_the_import_with_what_is_done() -> None:
    """After its patience, with a message that says how to go on."""

    async def body(service: FakeService) -> None:
        service.faults.extend([Fault(200, acts=True)] * 2 + [Fault(503, acts=False)] * 1000)
        with pytest.raises(NobodyAnswers, match="run the same command to go on"):
            await bring_in(service, text_of(people(2000)), patience_s=0.3)
        assert 0 < len(service.profiles) <= 500

    run(body)


def test_the_service_is_greeted_first() -> None:
    """It tells its topic; who is no such service is found out before a line is sent."""

    async def body(service: FakeService) -> None:
        def importer(url: str) -> Importer:
            clock = SystemClock()
            return Importer(places=[place_of(url)], source=None, told=Told(), clock=clock, patience_s=0.2)

        assert await importer(service.url).hello() == TOPIC_ID
        with pytest.raises(NobodyAnswers):
            await importer(f"http://127.0.0.1:{free_ports(1)[0]}").hello()
        service.topic_id = ""
        with pytest.raises(NotTheService):
            await importer(service.url).hello()

    async def refused(service: FakeService) -> None:
        service.faults.append(Fault(403, acts=False))
        with pytest.raises(NotTheService, match="403: so it is"):
            await bring_in(service, text_of(people(1)))

    run(body)
    run(refused)


def test_the_source_is_told_to_the_service() -> None:
    """So that it knows what was deleted since."""

    async def body(service: FakeService) -> None:
        await bring_in(service, text_of(people(1)), source="a b")
        assert service.sources == {"a%20b"}

    run(body)


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://a", "http://", "http://a:b", "http://u:p@a", "http://a/?x=1"])
def test_what_is_no_address_is_said(url: str) -> None:
    """Before anything is sent; a password in it is not repeated in logs of requests."""
    with pytest.raises(WrongFiles):
        place_of(url)
