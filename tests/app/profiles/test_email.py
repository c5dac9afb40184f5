"""The normal form of e-mail addresses: the corpus of known traps, and the fast path against the library."""

import unicodedata

import email_validator
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.profiles import email as room
from app.profiles.email import Address, EmailPolicy, InvalidEmail, normalise, stored_key

PUBLIC, INTERNAL = EmailPolicy.PUBLIC, EmailPolicy.INTERNAL

VALID = [
    ("bob1@mail.com", "bob1@mail.com", "bob1@mail.com"),
    ("Bob@Mail.COM", "Bob@mail.com", "bob@mail.com"),
    ("jo\u0301se@example.com", "jóse@example.com", "jóse@example.com"),
    ("JÓSE@example.com", "JÓSE@example.com", "jóse@example.com"),
    ("bob@exämple.com", "bob@exämple.com", "bob@xn--exmple-cua.com"),
    ("bob@xn--exmple-cua.com", "bob@exämple.com", "bob@xn--exmple-cua.com"),
    ("bob@EXÄMPLE.com", "bob@exämple.com", "bob@xn--exmple-cua.com"),
    ("b.o.b+tag@mail.com", "b.o.b+tag@mail.com", "b.o.b+tag@mail.com"),  # dots and tags are kept
    ("strauß@mail.com", "strauß@mail.com", "strauß@mail.com"),
    ("STRAUSS@mail.com", "STRAUSS@mail.com", "strauss@mail.com"),
    ("admın@mail.com", "admın@mail.com", "admın@mail.com"),  # a homograph is another mailbox
    ("Info@mail.com", "info@mail.com", "info@mail.com"),  # RFC 2142
    ("o'brien@mail.com", "o'brien@mail.com", "o'brien@mail.com"),
    ("a@b.co", "a@b.co", "a@b.co"),
    ("l" * 65 + "@mail.com", "l" * 65 + "@mail.com", "l" * 65 + "@mail.com"),
    ("x@testing.com", "x@testing.com", "x@testing.com"),  # only begins like a reserved name
]

INVALID = [
    "",
    "bob",
    "@mail.com",
    "bob@",
    " bob@mail.com ",
    "bob@mail.com\n",
    "bob@mail.com\r\nBcc: x@y.com",
    "bob smith@mail.com",
    "bob@@mail.com",
    "bob@mail..com",
    ".bob@mail.com",
    "bob.@mail.com",
    "b..ob@mail.com",
    "bob@-mail.com",
    "bob@mail-.com",
    "bob@[127.0.0.1]",
    "bob@123.45",
    "bob@localhost",
    "x@y.test",
    "x@corp.local",
    "x@a.invalid",
    "x@a.onion",
    "x@1.0.0.127.in-addr.arpa",
    '"bob"@mail.com',
    "Bob <bob@mail.com>",
    "bob@mail.com\x00",
    "bob\x00@mail.com",
    "\ud800@mail.com",
    "bob@\ud800.com",
    "bob@ab--cd.com",
    "bob@xn--a.com",
    "bob＠mail.com",
    "l" * 250 + "@mail.com",
    "a@" + "b" * 64 + ".com",
    "é" * 130 + "@mail.com",  # 254 are counted in bytes
    "a" * 1_000_000,
]


@pytest.mark.parametrize(("text", "display", "key"), VALID)
def test_valid_address_has_one_display_form_and_key(text: str, display: str, key: str) -> None:
    """Each known form gives the display form and the key that the contract names."""
    assert normalise(text) == Address(display, key.encode())


@pytest.mark.parametrize("text", INVALID)
def test_what_is_no_address_is_refused_without_repeating_it(text: str) -> None:
    """Everything else is refused, and the refusal's text does not carry what was sent."""
    with pytest.raises(InvalidEmail) as caught:
        normalise(text)
    assert not text or len(text) < 5 or text not in str(caught.value)


@pytest.mark.parametrize("text", ["a@localhost", "a@mail01", "a@x.test", "a@test", "a@corp.local", "a@CORP.Local"])
def test_internal_policy_adds_local_test_and_dotless_hosts(text: str) -> None:
    """The internal policy takes names that only exist inside a company; the public one does not."""
    assert normalise(text, INTERNAL) == Address(text.lower(), text.lower().encode())
    with pytest.raises(InvalidEmail):
        normalise(text, PUBLIC)


@pytest.mark.parametrize(
    "text", ["a@10.0.0.1", "a@x.onion", "a@invalid", "a@x.arpa", "a@[10.0.0.1]", "a@.local", "a@-.local"]
)
def test_internal_policy_refuses_addresses_and_other_reserved_names(text: str) -> None:
    """Internal does not mean anything goes."""
    with pytest.raises(InvalidEmail):
        normalise(text, INTERNAL)


def test_reserved_names_are_those_of_the_library() -> None:
    """The fast path's list of reserved names is the library's, so an update of the library cannot part them."""
    assert set(email_validator.SPECIAL_USE_DOMAIN_NAMES) == {
        *("arpa", "invalid", "local", "localhost", "onion", "test")
    }


_word = st.text(st.sampled_from("abzABZ019"), min_size=1, max_size=6)
_joint = st.sampled_from([".", "-", "_", "+", "..", "--", ".-", "'", "", "@", " ", "\n", "K", "ſ", "é"])
_local = st.one_of(
    st.lists(st.one_of(_word, _joint), min_size=1, max_size=6).map("".join),
    st.sampled_from(sorted(room._ROLES)).flatmap(lambda role: st.sampled_from([role, role.upper(), role.title()])),
)
_tail = st.sampled_from(
    ["com", "COM", "c", "co", "test", "Local", "localhost", "arpa", "invalid", "onion", "xn--p1ai", "c0m", "1", "com\n"]
)
_domain = st.lists(st.one_of(_word, _joint, st.just("xn--")), max_size=6).map("".join)
_texts = st.one_of(
    st.builds(lambda local, domain, tail: f"{local}@{domain}.{tail}", _local, _domain, _tail),
    st.builds(lambda local, tail: f"{local}@{tail}", _local, _tail),
    st.text(max_size=20),
)


@settings(max_examples=1500, deadline=None)
@given(_texts, st.sampled_from(EmailPolicy))
@example("info@mail.com\n", PUBLIC)
@example("a@" + "b" * 63 + ".com", PUBLIC)
def test_fast_path_agrees_with_the_library(text: str, policy: EmailPolicy) -> None:
    """For every text, the shortcut and the library accept the same and normalise alike."""

    def outcome(normaliser: object) -> Address | None:
        try:
            return normaliser(text, policy)  # type: ignore[operator]
        except InvalidEmail:
            return None

    assert outcome(normalise) == outcome(room._normalise_any)


@settings(max_examples=500, deadline=None)
@given(st.one_of(_texts, st.sampled_from([valid[0] for valid in VALID])), st.sampled_from(EmailPolicy))
def test_display_form_is_stable_and_tells_the_key(text: str, policy: EmailPolicy) -> None:
    """Sending back what was shown changes nothing, and the log's reader derives the same key from it."""
    try:
        address = normalise(text, policy)
    except InvalidEmail:
        return
    assert normalise(address.display, policy) == address
    assert stored_key(address.display) == address.key
    assert unicodedata.is_normalized("NFC", address.display)


def test_letter_case_never_makes_two_mailboxes() -> None:
    """A text in upper case has the key of the same text in lower case (final sigma apart, which Unicode rules)."""
    for text, _, _ in VALID:
        if text.upper().lower() == text.lower():
            assert normalise(text.upper()).key == normalise(text).key
