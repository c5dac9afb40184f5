"""Signatures between nodes: what is altered, meant for another or used before does not pass."""

import pytest

from streams.errors import ConfigError, Overloaded
from streams.http.signing import (
    BadSignature,
    Envelope,
    Keys,
    Message,
    Nonces,
    ReplayGuard,
    derive_keys,
    is_loopback_host,
    seal,
    seal_answer,
    unseal,
    unseal_answer,
)
from tests.streams.http.rig import LOCAL, keys_of

ADDRESS = "http://10.0.0.2:8080"
ENVELOPE = Envelope("a", "b", "start-1", 1234, "n1", 500, 7, "owner", {"uid": "u", "event": "e"})
MESSAGE = Message(b"PUT", b"/api/profile/1?x=1", [(b"if-match", b'"3"'), (b"accept", b"*/*")], b'{"a":1}')


class StandingClock:
    """Time is what the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time_ms(self) -> int:
        raise AssertionError("nothing here may ask for the time of day")


def test_what_was_sealed_is_unsealed() -> None:
    """The receiver gets every value; the order of the header fields does not matter."""
    value = seal(keys_of(), ENVELOPE, MESSAGE, address=ADDRESS)
    reordered = MESSAGE._replace(headers=[*MESSAGE.headers][::-1])
    assert unseal(keys_of(), value, reordered, address=ADDRESS) == ENVELOPE
    assert value.isascii()
    assert b"\n" not in value


@pytest.mark.parametrize(
    "altered",
    [
        MESSAGE._replace(method=b"POST"),
        MESSAGE._replace(target=b"/api/profile/2?x=1"),
        MESSAGE._replace(target=b"/api/profile/1"),
        MESSAGE._replace(headers=[(b"accept", b"*/*")]),
        MESSAGE._replace(headers=[*MESSAGE.headers, (b"prefer", b"return=minimal")]),
        MESSAGE._replace(headers=[(b"if-match", b'"4"'), (b"accept", b"*/*")]),
        MESSAGE._replace(body=b""),
        MESSAGE._replace(body=b'{"a":2}'),
    ],
)
def test_an_altered_request_is_refused(altered: Message) -> None:
    """Method, target, header fields and body are all covered."""
    value = seal(keys_of(), ENVELOPE, MESSAGE, address=ADDRESS)
    with pytest.raises(BadSignature):
        unseal(keys_of(), value, altered, address=ADDRESS)


def test_every_character_of_the_value_counts() -> None:
    """Whichever byte of signature or envelope is changed, or cut off, it is refused."""
    value = seal(keys_of(), ENVELOPE, MESSAGE, address=ADDRESS)
    forged = [value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :] for at in range(len(value))]
    forged += [value[:at] for at in range(len(value))] + [value + b" ", b"x" * 10_000]
    for one in forged:
        with pytest.raises(BadSignature):
            unseal(keys_of(), one, MESSAGE, address=ADDRESS)


@pytest.mark.parametrize(
    ("keys", "address"), [(keys_of(b"another secret of 16"), ADDRESS), (keys_of(), "http://10.0.0.3:8080")]
)
def test_another_secret_and_another_address_are_refused(keys: Keys, address: str) -> None:
    """A node that gets a request for another one cannot pass it on as its own, nor be reached by way of a third."""
    value = seal(keys_of(), ENVELOPE, MESSAGE, address=ADDRESS)
    with pytest.raises(BadSignature):
        unseal(keys, value, MESSAGE, address=address)


def test_parts_cannot_be_shifted_into_each_other() -> None:
    """The same bytes divided otherwise between two header fields, or header and body, are another request."""
    value = seal(keys_of(), ENVELOPE, Message(b"GET", b"/x", [(b"a", b"b:c")], b""), address=ADDRESS)
    for other in (
        Message(b"GET", b"/x", [(b"a:b", b"c")], b"z"),
        Message(b"GET", b"/x", [], b"a:b:c"),
        Message(b"GET/x", b"", [(b"a", b"b:c")], b""),
    ):
        with pytest.raises(BadSignature):
            unseal(keys_of(), value, other, address=ADDRESS)


def test_an_answer_belongs_to_its_request() -> None:
    """Nonce, status, note and body of an answer are covered, and a request's signature is no answer's."""
    value = seal_answer(keys_of(), nonce="n1", status=200, note="done 7", body=b"x")
    assert unseal_answer(keys_of(), value, nonce="n1", status=200, body=b"x") == "done 7"
    for nonce, status, body, one in (
        ("n2", 200, b"x", value),
        ("n1", 503, b"x", value),
        ("n1", 200, b"y", value),
        ("n1", 200, b"x", value.replace(b"done", b"DONE")),
        ("n1", 200, b"x", b""),
    ):
        with pytest.raises(BadSignature):
            unseal_answer(keys_of(), one, nonce=nonce, status=status, body=body)


def test_a_nonce_passes_once_as_long_as_its_request_is_fresh() -> None:
    """At every moment at which a request could still pass as fresh, its nonce is known; later it is forgotten."""
    clock = StandingClock()
    guard = ReplayGuard(clock)
    sent_ms = guard.now_ms()
    nonces = Nonces()
    first = nonces.next()
    assert guard.use(first)
    while guard.is_fresh(sent_ms + guard.future_ms):
        assert not guard.use(first)
        assert guard.use(nonces.next())
        clock.now += 0.1
    clock.now += 60
    assert guard.use(nonces.next())
    assert guard.use(first)  # forgotten: its request would have been refused as stale before


def test_the_guard_refuses_rather_than_forgets() -> None:
    """A flood cannot push out the nonces that it wants to use again."""
    guard = ReplayGuard(StandingClock(), capacity=10)
    used = [f"n{number}" for number in range(10)]
    assert all(guard.use(nonce) for nonce in used)
    with pytest.raises(Overloaded):
        guard.use("one more")
    assert not any(guard.use(nonce) for nonce in used)


@pytest.mark.parametrize(("age_ms", "is_fresh"), [(0, True), (4999, True), (5001, False), (-499, True), (-501, False)])
def test_what_is_old_or_of_another_clock_is_not_fresh(age_ms: int, is_fresh: bool) -> None:
    """The window is narrow on the side on which only drift can put an honest sender."""
    guard = ReplayGuard(StandingClock())
    assert guard.is_fresh(guard.now_ms() - age_ms) is is_fresh


def test_without_a_secret_a_node_must_be_on_loopback() -> None:
    """The key that anybody can compute is for one machine; a short secret is none."""
    with pytest.raises(ConfigError, match="secret"):
        derive_keys(b"", application_id="app", own_address="http://10.0.0.1:80")
    with pytest.raises(ConfigError, match="fewer than"):
        derive_keys(b"short", application_id="app", own_address=LOCAL)
    assert not derive_keys(b"", application_id="app", own_address="http://[::1]:80").is_secret
    assert derive_keys(b"", application_id="app", own_address=LOCAL) != keys_of()


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("::", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback_is_recognised(host: str, is_loopback: bool) -> None:
    """In both families, and when one is written in the other."""
    assert is_loopback_host(host) is is_loopback
