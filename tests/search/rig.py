"""A service, a search server and one replicator or two, what befalls them, and the comparison in the end.

Nothing here imports the product: the fold of the log and the comparison are the test's own. A schedule of faults is
drawn from the seed before the round begins, so that a seed replays it as far as the machine's timing allows.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.churn import Churn
from tests.support.dump import Raw, raw_embedded, raw_kafka
from tests.support.search_server import SearchServer
from tests.support.service import Service

ALIAS = "profiles"
#: How long the replicator may take after a round: long enough for a machine that has other work.
QUIET_TIMEOUT_S = 240.0
_PAGE = 5_000
_SAMPLE = 200
_LONGEST_FREEZE_S = 4.0
_LONGEST_AWAY_S = 1.0

Fold = Mapping[str, Any]


class Mismatch(AssertionError):
    """The index is not what the log says. `kinds`: the first word of each difference."""

    def __init__(self, message: str, found: Sequence[str]) -> None:
        super().__init__(message)
        self.kinds = {one.partition(" ")[0].rstrip(":") for one in found}


def seed_of_run() -> int:
    """`CHAOS_SEED`, or a random one."""
    return int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))


def fold_of(records: Iterable[Raw]) -> dict[str, Any]:
    """Return the profiles that *records* leave: uid to document. One uid's records come in the order of their log."""
    last: dict[str, bytes] = {}
    for record in records:
        assert record.key is not None
        if record.value is None:
            last.pop(record.key.decode(), None)
        else:
            last[record.key.decode()] = record.value
    return {uid: json.loads(value) for uid, value in last.items()}


class Fault(NamedTuple):
    """*action* `kill` (and start again) or `freeze` (and thaw), at *at_s* of the round, for *lasts_s*."""

    at_s: float
    victim: str
    action: str
    lasts_s: float


def draw_faults(rng: random.Random, victims: Mapping[str, Sequence[str]], *, seconds: float) -> list[Fault]:
    """Return faults of a round of *seconds*: for each of *victims* its actions, each at least once."""
    wanted = [(victim, action) for victim, actions in victims.items() for action in actions]
    wanted += [rng.choice(wanted) for _ in range(int(seconds / 2))]
    faults = []
    for victim, action in wanted:
        longest = _LONGEST_FREEZE_S if action == "freeze" else _LONGEST_AWAY_S
        faults.append(Fault(rng.uniform(0.2, seconds), victim, action, rng.uniform(0.05, longest)))
    return sorted(faults)


@dataclass
class Rig:
    """Everything of one test. Not thread-safe; faults are carried out on the thread that made the processes."""

    service: Service
    server: SearchServer
    replicators: Sequence[Service]
    churn: Churn
    seed: int
    quiet_timeout_s: float = QUIET_TIMEOUT_S

    def run(self, *, rounds: int, seconds: float, least: int) -> None:
        """All rounds, after a comparison of what was there before. Raises AssertionError."""
        self.compare(f"CHAOS_SEED={self.seed}, before the rounds")
        for number in range(rounds):
            self.round(number, seconds=seconds, least=least)

    @property
    def _processes(self) -> dict[str, Service | SearchServer]:
        named = {f"replicator-{number}": one for number, one in enumerate(self.replicators)}
        return {"service": self.service, "server": self.server, **named}

    def round(self, number: int, *, seconds: float, least: int) -> None:
        """Load the service for *seconds*, do harm, let it become quiet, and compare. Raises AssertionError."""
        rng = random.Random(f"{self.seed}/{number}")
        victims = {name: ("kill",) if name == "service" else ("kill", "freeze") for name in self._processes}
        faults = draw_faults(rng, victims, seconds=seconds)
        before = self.churn.acknowledged
        self._wait_until_following()
        self.churn.start()
        try:
            self._carry_out(faults, seconds)
            self.restore()
            self._wait_for_changes(before + least)
        finally:
            self.churn.stop()
        context = f"CHAOS_SEED={self.seed}, round {number}"
        self._wait_until_equal(self.fold(), context)
        harms = [self._kill_a_replicator, self._kill_the_server, self._kill_who_waits_for_an_answer]
        rng.shuffle(harms)
        for harm in harms:
            self._at_work(rng, least // 2, harm, context)
        if len(self.replicators) > 1:
            self._sleep_through(rng, least, context)
        changes = self.churn.acknowledged - before
        took_s = self.compare(context)
        kinds = ", ".join(
            f"{fault.victim} {fault.action} {fault.lasts_s:.1f} s at {fault.at_s:.1f}" for fault in faults
        )
        print(f"round {number}: {changes} changes; equal after {took_s:.1f} s; {kinds}", flush=True)

    def _at_work(self, rng: random.Random, least: int, harm: Callable[[random.Random], None], context: str) -> None:
        """Do *harm* while everything works as it should: in the midst of many faults there is little to be spoiled."""
        self._wait_until_following()
        before = self.churn.acknowledged
        self.churn.start()
        try:
            time.sleep(rng.uniform(0.5, 2.5))  # A moment as good as any, once batches are as large as they become.
            self._wait_for_changes(before + least)
            harm(rng)
            self._wait_for_changes(self.churn.acknowledged + least)
        finally:
            self.churn.stop()
        self.restore()
        self._wait_until_equal(self.fold(), context)

    def _kill_a_replicator(self, rng: random.Random) -> None:
        one = rng.choice(self.replicators)
        one.kill()
        one.start(is_waited_for=False)

    def _kill_the_server(self, rng: random.Random) -> None:
        self.server.kill()
        self.server.start(is_waited_for=False)

    def _kill_who_waits_for_an_answer(self, rng: random.Random) -> None:
        """What the server has been sent it carries out when it is thawed, long after its sender is dead."""
        self.server.freeze()
        time.sleep(rng.uniform(0.2, 1.0))
        self._kill_a_replicator(rng)
        self.server.thaw()

    def _sleep_through(self, rng: random.Random, least: int, context: str) -> None:
        """Freeze a replicator in the midst of its work, let another one do it, and wake it up when all is done: what it
        has in its hands then is old. It is told to stop before it wakes: else it would read on from where it was, and
        so mend what it spoils."""
        sleeper = rng.choice(self.replicators)
        before = self.churn.acknowledged
        self.churn.start()
        try:
            time.sleep(rng.uniform(1.5, 4.0))  # A moment as good as any, once batches are as large as they become.
            self._wait_for_changes(before + least)
            sleeper.freeze()
            self._wait_for_changes(self.churn.acknowledged + 2 * least)
        finally:
            self.churn.stop()
        self._wait_until_equal(self.fold(), context)
        os.kill(sleeper.pid, signal.SIGTERM)
        sleeper.thaw()
        assert sleeper.wait_for_exit(60) == 0, f"exit {sleeper.exit_code} after SIGTERM; {context}\n{sleeper.tail()}"
        sleeper.start(is_waited_for=False)

    def compare(self, context: str) -> float:
        """Return how many seconds it took until the index was right; then end the replicators in an orderly way, see
        that it stayed right and that searches find what they must, and start the replicators again."""
        fold = self.fold()
        took_s = self._wait_until_equal(fold, context)
        self._wait_until_following()  # Before that a SIGTERM finds nobody who would end in an orderly way.
        for one in self.replicators:
            assert one.stop(timeout_s=60) == 0, f"exit {one.exit_code} after SIGTERM; {context}\n{one.tail()}"
        found = self._differences(fold) + self._search(fold)
        if found:
            self._fail(found, context)
        for one in self.replicators:
            one.start(is_waited_for=False)
        return took_s

    def _wait_until_equal(self, fold: Fold, context: str) -> float:
        """Return how many seconds it took. Raises Mismatch."""
        begun = time.monotonic()
        while found := self._differences(fold):
            for one in self.replicators:
                assert one.is_running, f"a replicator has ended with {one.exit_code}; {context}\n{one.tail()}"
            if time.monotonic() > begun + self.quiet_timeout_s:
                self._fail(found, context)
            time.sleep(0.2)
        return time.monotonic() - begun

    def _wait_until_following(self) -> None:
        """Return when every replicator has said, since it was started last, that it copies."""
        end = time.monotonic() + self.quiet_timeout_s
        for one in self.replicators:
            while " replicating " not in one.log().rpartition("--- start of")[2]:
                assert time.monotonic() < end, f"it does not start: {one.tail()}"
                time.sleep(0.05)

    def _wait_for_changes(self, acknowledged: int) -> None:
        end = time.monotonic() + 120
        while self.churn.acknowledged < acknowledged:
            assert time.monotonic() < end, f"void: {self.churn.acknowledged} writes, and not {acknowledged}"
            time.sleep(0.05)

    def restore(self) -> None:
        """Let everything run again: thaw, start, wait until service and server are ready."""
        for process in self._processes.values():
            if process.is_running:
                process.thaw()
            else:
                process.start(is_waited_for=False)
        self.server.wait_until_ready()
        self.service.wait_until_ready()

    def fold(self) -> Fold:
        """Return the profiles that the log holds. The embedded log is read between two runs of the service."""
        topic = self.service.environment.get("PROFILES_TOPIC_PREFIX", "") + "profiles"
        if bootstrap := self.service.environment.get("PROFILES_BOOTSTRAP_SERVERS"):
            return fold_of(raw_kafka(bootstrap, topic))
        self.service.stop()
        fold = fold_of(raw_embedded(self.service.state_dir, topic))
        self.service.start()
        return fold

    def _differences(self, fold: Fold) -> list[str]:
        if self.server.request("POST", f"/{ALIAS}/_refresh").status == 404:
            return ["lost: there is no index"]
        return differences(fold, self.documents())

    def documents(self) -> dict[str, Any]:
        """Return what searchers see, all of it, as of the last refresh: id to document."""
        body = {"size": _PAGE, "sort": ["_doc"], "query": {"match_all": {}}}
        page = self.server.request("POST", f"/{ALIAS}/_search?scroll=1m", body)
        found: dict[str, Any] = {}
        while page.status == 200 and page.document["hits"]["hits"]:
            found.update((hit["_id"], hit["_source"]) for hit in page.document["hits"]["hits"])
            again = {"scroll": "1m", "scroll_id": page.document["_scroll_id"]}
            page = self.server.request("POST", "/_search/scroll", again)
        if "_scroll_id" in (page.document or {}):
            self.server.request("DELETE", "/_search/scroll", {"scroll_id": page.document["_scroll_id"]})
        return found

    def _carry_out(self, faults: Sequence[Fault], seconds: float) -> None:
        """Begin each fault at its time and end it at its time; others may lie between."""
        steps = [(fault.at_s, fault, True) for fault in faults]
        steps += [(min(seconds, fault.at_s + fault.lasts_s), fault, False) for fault in faults]
        begun = time.monotonic()
        for at_s, fault, is_begin in sorted(steps, key=lambda step: step[0]):
            time.sleep(max(0.0, begun + at_s - time.monotonic()))  # The faults are to happen at their times.
            process = self._processes[fault.victim]
            if fault.action == "kill":
                if is_begin and process.is_running:
                    process.kill()
                elif not is_begin and not process.is_running:
                    process.start(is_waited_for=False)
            elif process.is_running:
                process.freeze() if is_begin else process.thaw()
        time.sleep(max(0.0, begun + seconds - time.monotonic()))

    def _search(self, fold: Fold) -> list[str]:
        """Search by name and e-mail for some profiles of *fold*, and for everything that must not be found."""
        rng = random.Random(self.seed)
        live = rng.sample(sorted(fold), min(_SAMPLE, len(fold)))
        holders = {profile["email"]: uid for uid, profile in fold.items()}
        questions: list[tuple[str, object, set[str]]] = []
        for uid in live:
            email, name = fold[uid]["email"], fold[uid]["username"]
            questions.append((f"e-mail {email}", {"term": {"email": email}}, {uid}))
            same_name = {other for other, profile in fold.items() if profile["username"] == name}
            by_name = {"match": {"username": {"query": name, "operator": "and"}}}
            questions.append((f"name {name}", by_name, same_name))
        free, dead = self.churn.emails - set(holders), self.churn.uids - set(fold)
        questions += [("e-mails that nobody has", {"terms": {"email": some}}, set()) for some in _parts(free)]
        questions += [("deleted profiles", {"ids": {"values": some}}, set()) for some in _parts(dead)]
        return list(self._ask(questions))

    def _ask(self, questions: Sequence[tuple[str, object, set[str]]]) -> Iterable[str]:
        lines: list[object] = []
        for _, query, _ in questions:
            lines += [{"index": ALIAS}, {"query": query, "size": 20, "_source": False}]
        if not lines:
            return
        answer = self.server.request("POST", "/_msearch", lines=lines, timeout_s=60)
        assert answer.status == 200, answer
        for (what, _, expected), one in zip(questions, answer.document["responses"], strict=True):
            found = {hit["_id"] for hit in one["hits"]["hits"]}
            if found != expected:
                yield f"search for {what} finds {sorted(found)} instead of {sorted(expected)}"

    def _fail(self, found: Sequence[str], context: str) -> None:
        lines = "\n".join(f"  {one}" for one in found[:20])
        tails = "\n".join(one.tail(25) for one in self.replicators)
        raise Mismatch(f"{len(found)} differences; {context}\n{lines}\n{tails}", found)


def _parts(names: Iterable[str]) -> list[list[str]]:
    """Return *names* in parts that a query takes."""
    ordered = sorted(names)
    return [ordered[start : start + 1000] for start in range(0, len(ordered), 1000)]


def differences(fold: Fold, documents: Fold) -> list[str]:
    """Return in what the index differs from the log, document by document."""
    found = [f"lost: {uid} is not in the index" for uid in fold.keys() - documents.keys()]
    found += [f"alive: {uid} is in the index, and the log does not hold it" for uid in documents.keys() - fold.keys()]
    for uid in fold.keys() & documents.keys():
        if documents[uid] != fold[uid]:
            found.append(f"differs: {uid} is {documents[uid]}, the log holds {fold[uid]}")
    return found


def replicator(
    directory: Path, service: Service, server: SearchServer, *, bug: str | None = None, source: str | None = None
) -> Service:
    """Return a replicator that is not started yet. *bug*: see `tests.support.buggy_replicator`. *source*: the address
    of a change feed, instead of the service's Kafka."""
    command = ["replicate", "elasticsearch", "--url", server.url, "--index", ALIAS]
    kept = (
        "PROFILES_BOOTSTRAP_SERVERS",
        "PROFILES_TOPIC_PREFIX",
        "PROFILES_APPLICATION_ID",
        "PROFILES_SESSION_TIMEOUT_MS",
    )
    environment = {name: service.environment[name] for name in kept if name in service.environment}
    if source is not None:
        command += ["--source", source]
    module = "app" if bug is None else "tests.support.buggy_replicator"
    arguments = command if bug is None else [bug, *command]
    return Service(directory, environment=environment, module=module, arguments=arguments)
