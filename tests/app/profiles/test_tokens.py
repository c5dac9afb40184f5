"""Tokens: what was given out is read back; everything else is refused."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.profiles.results import BadCursor
from app.profiles.tokens import Tokens
from streams.records import TopicPartition
from tests.app.profiles.fakes import NAMES, SECRET, TOPIC_IDS

TOKENS = Tokens(secret=SECRET, topic_ids=TOPIC_IDS)
POSITIONS = {TopicPartition(NAMES.profiles, 3): 17, TopicPartition(NAMES.emails, 0): 2**63}
CURSOR = b"74292b21-0fbb-4f1d-a18f-fa80f947fa5d"


def test_tokens_give_back_what_they_were_made_of() -> None:
    """Positions and cursors survive the way to a client and back, in characters that fit a header and a URL."""
    for token in (TOKENS.of_positions(POSITIONS), TOKENS.of_cursor(CURSOR), TOKENS.of_positions({})):
        assert token.isascii()
        assert token.replace("-", "").replace("_", "").isalnum()
    assert TOKENS.positions(TOKENS.of_positions(POSITIONS)) == POSITIONS
    assert TOKENS.positions(TOKENS.of_positions({})) == {}
    assert TOKENS.cursor(TOKENS.of_cursor(CURSOR)) == CURSOR


def test_every_flipped_bit_is_noticed() -> None:
    """No part of a token can be changed."""
    token = TOKENS.of_positions(POSITIONS)
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for bit in range(len(raw) * 8):
        forged = bytearray(raw)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadCursor) as caught:
            TOKENS.positions(base64.urlsafe_b64encode(forged).rstrip(b"=").decode())
        assert caught.value.parameter == "Profile-Position"


@pytest.mark.parametrize(
    "stranger",
    [
        Tokens(secret=b"another secret of enough bytes", topic_ids=TOPIC_IDS),
        Tokens(secret=SECRET, topic_ids={**TOPIC_IDS, NAMES.profiles: "made again"}),
        Tokens(secret=SECRET, topic_ids={**TOPIC_IDS, "one more": "id-4"}),
    ],
)
def test_tokens_of_others_are_refused(stranger: Tokens) -> None:
    """Another cluster's, or of topics that were deleted and made again: offsets mean nothing there."""
    with pytest.raises(BadCursor):
        TOKENS.positions(stranger.of_positions(POSITIONS))
    with pytest.raises(BadCursor) as caught:
        TOKENS.cursor(stranger.of_cursor(CURSOR))
    assert caught.value.parameter == "cursor"


def test_one_kind_never_passes_as_the_other() -> None:
    """The keys are derived for a purpose each."""
    with pytest.raises(BadCursor):
        TOKENS.cursor(TOKENS.of_positions(POSITIONS))
    with pytest.raises(BadCursor):
        TOKENS.positions(TOKENS.of_cursor(CURSOR))


@given(st.text(max_size=100) | st.text(st.sampled_from("AZaz09-_="), max_size=100))
def test_any_other_text_is_refused(text: str) -> None:
    """Nothing but BadCursor comes of what a client makes up."""
    with pytest.raises(BadCursor):
        TOKENS.cursor(text)
    with pytest.raises(BadCursor):
        TOKENS.positions(text)


def test_huge_tokens_are_refused_before_they_are_decoded() -> None:
    """A client cannot make the service hash megabytes."""
    with pytest.raises(BadCursor):
        TOKENS.positions("A" * 1_000_000)
