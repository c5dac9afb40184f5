"""64 clients at once: one winner for each version, one holder for each e-mail, one profile for each Idempotency-Key."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest

from tests.e2e.conftest import kafka_environment
from tests.support.client import Client, Reply
from tests.support.service import Service

RACERS = 64
ROUNDS = 5


@pytest.fixture(scope="module", params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def service(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A running node on either log; each race uses e-mails of its own."""
    settings = {} if request.param == "embedded" else kafka_environment(request.getfixturevalue("broker"))
    with Service(tmp_path_factory.mktemp("races"), environment=settings) as running:
        yield running.start()


def race(service: Service, scenario: Callable[[Sequence[Client]], Awaitable[None]]) -> None:
    """Run *scenario* with a connection for each racer, all open before the start."""

    async def run() -> None:
        clients = [Client(service.address) for _ in range(RACERS)]
        await asyncio.gather(*(client.request("GET", "/livez") for client in clients))
        try:
            await scenario(clients)
        finally:
            for client in clients:
                client.close()

    asyncio.run(run())


async def create(client: Client, name: str, email: str, **headers: str) -> Reply:
    """POST a profile. *headers*: underscores stand for hyphens."""
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    return await client.request("POST", "/api/profile", {"username": name, "email": email}, given)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_one_writer_wins_each_version(service: Service, method: str) -> None:
    """Of 64 conditional writes of one version exactly one succeeds, and all others get 412 (404 after a deletion)."""

    async def scenario(clients: Sequence[Client]) -> None:
        uid = (await create(clients[0], "start", f"{method}@mail.com")).json()["uid"]
        for version in range(1, 2 if method == "DELETE" else ROUNDS + 1):
            documents = [
                None if method == "DELETE" else {"username": f"{version}-{i}", "email": f"{method}@mail.com"}
                for i in range(RACERS)
            ]
            condition = {"If-Match": f'"{version}"'}
            replies = await asyncio.gather(
                *(
                    client.request(method, f"/api/profile/{uid}", document, condition)
                    for client, document in zip(clients, documents, strict=True)
                )
            )
            statuses = Counter(reply.status for reply in replies)
            if method == "DELETE":
                assert statuses == {204: 1, 404: RACERS - 1}
                return
            assert statuses == {200: 1, 412: RACERS - 1}
            winner = next(reply for reply in replies if reply.status == 200)
            now = await clients[0].request("GET", f"/api/profile/{uid}")
            assert now.body == winner.body
            assert now.headers["etag"] == f'"{version + 1}"'

    race(service, scenario)


def test_one_profile_gets_an_email(service: Service) -> None:
    """Of 64 creates with one e-mail, in many spellings, exactly one gets 201 and all others 409 with its uid."""

    async def scenario(clients: Sequence[Client]) -> None:
        for number in range(ROUNDS):
            spellings = [f"One{number}@Mail.com", f"one{number}@mail.com", f"ONE{number}@MAIL.COM"]
            replies = await asyncio.gather(
                *(create(client, f"r{i}", spellings[i % 3]) for i, client in enumerate(clients))
            )
            assert Counter(reply.status for reply in replies) == {201: 1, 409: RACERS - 1}
            uid = next(reply for reply in replies if reply.status == 201).json()["uid"]
            assert {reply.json()["existing_uid"] for reply in replies if reply.status == 409} == {uid}
            found = await clients[0].request("GET", f"/api/search?email=one{number}%40mail.com")
            assert found.json()["uid"] == uid

    race(service, scenario)


def test_one_profile_gets_an_email_that_all_move_to(service: Service) -> None:
    """Of 64 profiles that change to one e-mail exactly one succeeds."""

    async def scenario(clients: Sequence[Client]) -> None:
        made = await asyncio.gather(*(create(client, f"m{i}", f"m{i}@mail.com") for i, client in enumerate(clients)))
        replies = await asyncio.gather(
            *(
                client.request("PATCH", f"/api/profile/{own.json()['uid']}", {"email": "wanted@mail.com"})
                for client, own in zip(clients, made, strict=True)
            )
        )
        assert Counter(reply.status for reply in replies) == {200: 1, 409: RACERS - 1}

    race(service, scenario)


def test_two_profiles_cannot_swap_emails(service: Service) -> None:
    """Both get 409, at once and again, and both keep what they had."""

    async def scenario(clients: Sequence[Client]) -> None:
        uids = [(await create(clients[i], f"s{i}", f"s{i}@mail.com")).json()["uid"] for i in range(2)]
        for _ in range(ROUNDS):
            replies = await asyncio.gather(
                *(
                    clients[i].request("PATCH", f"/api/profile/{uids[i]}", {"email": f"s{1 - i}@mail.com"})
                    for i in range(2)
                )
            )
            assert [reply.status for reply in replies] == [409, 409]
        for i in range(2):
            assert (await clients[0].request("GET", f"/api/search?email=s{i}@mail.com")).json()["uid"] == uids[i]

    race(service, scenario)


def test_one_profile_comes_of_one_idempotency_key(service: Service) -> None:
    """64 creates with one key make one profile: each gets 201 with its uid, or is told that it is in progress."""

    async def scenario(clients: Sequence[Client]) -> None:
        replies = await asyncio.gather(
            *(create(client, "twin", "twin@mail.com", Idempotency_Key='"k-1"') for client in clients)
        )
        uids = {reply.json()["uid"] for reply in replies if reply.status == 201}
        assert len(uids) == 1
        for reply in replies:
            if reply.status != 201:
                assert reply.status == 409
                assert reply.json()["type"].endswith("idempotency-in-progress"), reply
        again = await create(clients[0], "twin", "twin@mail.com", Idempotency_Key='"k-1"')
        assert (again.status, again.json()["uid"]) == (201, uids.pop())
        other = await create(clients[0], "other", "twin@mail.com", Idempotency_Key='"k-1"')
        assert other.status == 422

    race(service, scenario)
