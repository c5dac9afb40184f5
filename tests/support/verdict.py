"""The end of every run under faults: what is served, what is in the log, and what the checker says of both.

Rule: no vacuous pass. A run with too little traffic is void, which is a failure of its own kind.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from tests.support.checker import State, check, check_final
from tests.support.client import Client
from tests.support.dump import dump_embedded, dump_kafka
from tests.support.history import Outcome, ProfileLog, Violation
from tests.support.load import Load
from tests.support.service import Service

_PAGE = 500

_T = TypeVar("_T")


class VoidRunError(AssertionError):
    """The run says nothing: too little happened."""


class Verdict(NamedTuple):
    """What was found. `log` is that of the run."""

    violations: list[Violation]
    log: ProfileLog

    def rules(self) -> set[str]:
        """The rules that were broken."""
        return {violation.rule for violation in self.violations}

    def assert_clean(self, context: str) -> None:
        """Raise AssertionError with the first violations; *context* must name the seed."""
        lines = "\n".join(f"  {rule}: {detail}" for rule, detail in self.violations[:20])
        assert not self.violations, f"{len(self.violations)} violations; {context}\n{lines}"


def dump(service: Service) -> ProfileLog:
    """Return the log of *service*, which must be stopped if it keeps the log itself."""
    bootstrap = service.environment.get("PROFILES_BOOTSTRAP_SERVERS")
    if bootstrap:
        return dump_kafka(bootstrap, service.environment.get("PROFILES_TOPIC_PREFIX", "") + "profiles")
    return dump_embedded(service.state_dir)


async def judge(
    service: Service, load: Load, *, least_acknowledged: int, others: Sequence[Service] = (), partitions: int = 1
) -> Verdict:
    """Ask the running *service* for everything, stop it, let it verify itself, and check it all against the log.

    *others*: further nodes of its cluster, of which the same is asked; *partitions*: those of their topics. Raises
    VoidRunError when fewer than *least_acknowledged* writes were acknowledged.
    """
    acknowledged = load.count(Outcome.OK, is_write=True)
    if acknowledged < least_acknowledged or load.count(Outcome.OK, is_write=False) < least_acknowledged:
        raise VoidRunError(f"only {acknowledged} acknowledged writes: {load.summary()}")
    await load.settle(partitions=partitions)
    services = [service, *others]
    answers = [await served(one, load) for one in services]
    exit_codes = await asyncio.gather(*(asyncio.to_thread(one.stop) for one in services))
    log = await asyncio.to_thread(dump, service)
    # The embedded log compacts within seconds, Kafka not before ten minutes (`min.compaction.lag.ms`).
    is_compacted = "PROFILES_BOOTSTRAP_SERVERS" not in service.environment
    found = check(load.operations, log, is_compacted=is_compacted)
    for one, answer, exit_code in zip(services, answers, exit_codes, strict=True):
        found += _check_served(*answer, log)
        if exit_code != 0:
            found.append(Violation("stop", f"exit code {exit_code} after SIGTERM\n{one.tail()}"))
    for verified in await asyncio.gather(*(asyncio.to_thread(one.command, "verify") for one in services)):
        if verified.returncode != 0:
            output = f"{verified.stdout[-1500:]}{verified.stderr[-1500:]}"
            found.append(Violation("verify", f"exit {verified.returncode}: {output}"))
    return Verdict(found, log)


def _check_served(
    listed: Mapping[str, State], by_uid: Mapping[str, State | None], by_email: Mapping[str, str | None], log: ProfileLog
) -> list[Violation]:
    """Compare what one node serves in the end with the log, and its three ways of telling it with each other."""
    found = check_final(listed, log)
    for uid, state in by_uid.items():
        if listed.get(uid) != state:
            found.append(Violation("final", f"GET gives {state} for {uid}, the list {listed.get(uid)}"))
    holders = {state.email: uid for uid, state in listed.items()}
    for email, holder in by_email.items():
        if holders.get(email) != holder:
            found.append(Violation("final", f"search for {email} gives {holder}, not {holders.get(email)}"))
    return found


async def served(
    service: Service, load: Load
) -> tuple[dict[str, State], dict[str, State | None], dict[str, str | None]]:
    """Return what the node serves now: the whole list, each profile ever known by uid, each e-mail ever used."""
    client = Client(service.address)
    listed: dict[str, State] = {}
    cursor: Any = ""  # None after the last page
    while cursor is not None:
        target = f"/api/profile?limit={_PAGE}" + (f"&cursor={cursor}" if cursor else "")
        page = (await _answer(client, target, {200})).json()
        listed.update((item["uid"], _state(item)) for item in page["items"])
        cursor = page["next"]
    by_uid: dict[str, State | None] = {}
    for uid in {op.uid for op in load.operations if op.uid}:
        by_uid[uid] = await _look_up(client, f"/api/profile/{uid}", _state)
    by_email: dict[str, str | None] = {}
    for email in {op.email for op in load.operations if op.email}:
        by_email[email] = await _look_up(client, f"/api/search?email={email}", lambda document: str(document["uid"]))
    client.close()
    return listed, by_uid, by_email


async def _look_up(client: Client, target: str, read: Callable[[Mapping[str, Any]], _T]) -> _T | None:
    reply = await _answer(client, target, {200, 404})
    return read(reply.json()) if reply.status == 200 else None


async def _answer(client: Client, target: str, statuses: set[int]) -> Any:
    reply = await client.request("GET", target)
    assert reply.status in statuses, f"{target}: {reply}"
    return reply


def _state(document: Mapping[str, Any]) -> State:
    return State(int(document["version"]), str(document["username"]), str(document["email"]))
