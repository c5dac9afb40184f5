"""A random history of requests against a dictionary: versions, conditions, unique e-mails, whatever the order.

Claims are left behind now and then, as lost releases would leave them, and must change nothing.
"""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from app.profiles import results
from app.profiles.requests import ANY, PLAIN
from app.profiles.results import Written
from tests.app.profiles.fakes import NAMES, World

EMAILS = st.builds(
    lambda name, is_upper: f"{name.upper() if is_upper else name}@mail.com",
    st.sampled_from(["ann", "bob", "cid", "dan", "eve"]),
    st.booleans(),
)
USERNAMES = st.sampled_from(["x", "y", "", None])
CONDITIONS = st.one_of(st.none(), st.just(ANY), st.just("now"), st.just("old"), st.just(()))


class Profiles(RuleBasedStateMachine):
    """The model: uid to (username, e-mail, version)."""

    uids = Bundle("uids")

    def __init__(self) -> None:
        super().__init__()
        self.world = World(partitions=3)
        self.loop = asyncio.new_event_loop()
        self.model: dict[str, tuple[str, str, int]] = {}

    def teardown(self) -> None:
        self.loop.close()

    def attempt(self, call: Coroutine[Any, Any, Written]) -> Written | type:
        """Return what was written, or the kind of refusal; a refusal must not have written."""
        before = len(self.world.state.log)
        try:
            return self.loop.run_until_complete(call)
        except results.Rejection as refusal:
            assert len(self.world.state.log) == before
            return type(refusal)

    def holder(self, email: str, *, but: str | None = None) -> str | None:
        return next(
            (uid for uid, (_, held, _) in self.model.items() if held.lower() == email.lower() and uid != but), None
        )

    @rule(target=uids, username=st.sampled_from(["x", "y"]), email=EMAILS, key=st.sampled_from([None, None, "unique"]))
    def create(self, username: str, email: str, key: str | None) -> Any:
        if key is not None:
            key = f"{key}{len(self.world.state.log)}"
        outcome = self.attempt(
            self.world.service.create(
                {"username": username, "email": email}, idempotency_key=key, deadline=self.world.deadline
            )
        )
        if self.holder(email) is not None:
            assert outcome is results.EmailTaken
            return multiple()
        assert isinstance(outcome, Written)
        assert outcome.profile is not None
        assert outcome.profile.uid not in self.model
        self.model[outcome.profile.uid] = (username, email.split("@")[0] + "@mail.com", 1)
        return outcome.profile.uid

    @rule(uid=uids, username=USERNAMES, email=EMAILS, condition=CONDITIONS, is_patch=st.booleans())
    def change(self, uid: str, username: str | None, email: str, condition: Any, is_patch: bool) -> None:
        self.world.clock.now_ms += 1
        if_match = self.if_match(uid, condition)
        document = {"email": email} if username is None else {"username": username, "email": email}
        call = self.world.service.patch if is_patch else self.world.service.replace
        outcome = self.attempt(call(uid, document, if_match=if_match, deadline=self.world.deadline))
        expected = self.refusal(uid, if_match)
        is_invalid = username == "" or (username is None and not is_patch)
        if expected is None and is_invalid:
            expected = results.ValidationFailed
        if expected is None and self.holder(email, but=uid) is not None:
            expected = results.EmailTaken
        if expected is not None:
            assert outcome is expected
            return
        assert isinstance(outcome, Written)
        old_username, old_email, version = self.model[uid]
        new_username = old_username if username is None else username
        shown = email.split("@")[0] + "@mail.com"
        is_changed = (new_username, shown) != (old_username, old_email)
        assert outcome.is_changed is is_changed
        assert bool(outcome.positions) is is_changed
        self.model[uid] = (new_username, shown, version + is_changed)

    @rule(uid=uids, condition=CONDITIONS)
    def delete(self, uid: str, condition: Any) -> None:
        if_match = self.if_match(uid, condition)
        outcome = self.attempt(self.world.service.delete(uid, if_match=if_match, deadline=self.world.deadline))
        expected = self.refusal(uid, if_match)
        if expected is not None:
            assert outcome is expected
            return
        assert isinstance(outcome, Written)
        assert outcome.profile is None
        del self.model[uid]

    @rule(uid=uids, email=EMAILS)
    def leave_a_claim_behind(self, uid: str, email: str) -> None:
        """As a lost release does: for an e-mail that nobody carries, naming a profile alive or dead."""
        if self.holder(email) is None:
            self.world.state.put_claim(email.lower().encode(), uid)

    def if_match(self, uid: str, condition: Any) -> tuple[int, ...] | None:
        version = self.model[uid][2] if uid in self.model else 1
        return {"now": (99, version), "old": (version - 1,)}.get(condition, condition) if condition else condition

    def refusal(self, uid: str, if_match: tuple[int, ...] | None) -> type | None:
        if uid not in self.model:
            return results.ProfileNotFound
        if if_match is None or if_match == ANY or self.model[uid][2] in if_match:
            return None
        return results.VersionMismatch

    @invariant()
    def reads_agree_with_the_model(self) -> None:
        """Every profile is found by uid and by e-mail, with its version; nobody else is."""
        assert {uid: version for uid, (version, _) in self.world.state.live().items()} == {
            uid: version for uid, (_, _, version) in self.model.items()
        }
        keys = [key for _, key in self.world.state.live().values()]
        assert len(keys) == len(set(keys))
        for uid, (username, email, version) in self.model.items():
            found = self.loop.run_until_complete(
                self.world.service.search(email.swapcase(), PLAIN, self.world.deadline)
            )
            shown = json.loads(found.profile.body)
            assert (shown["uid"], shown["username"], shown["email"].lower(), shown["version"]) == (
                uid,
                username,
                email.lower(),
                version,
            )

    @invariant()
    def claims_come_before_and_releases_after_the_profile(self) -> None:
        """In every group, for any reader that stops half way."""
        for group in self.world.state.groups[-1:]:
            kinds = [1 if record.topic != NAMES.emails else 0 if record.value is not None else 2 for record in group]
            assert kinds == sorted(kinds)


TestProfiles = Profiles.TestCase
TestProfiles.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
