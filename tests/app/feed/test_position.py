"""A place of the feed survives its journey as text, on any node, and nothing else passes for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.feed.errors import FeedExpired
from app.feed.position import Position, Seqs, horizon_s
from app.profiles.results import BadCursor
from app.profiles.tokens import Tokens

SECRET = b"a secret of sixteen bytes or more"


def seqs(*, secret: bytes = SECRET, topic_id: str = "1", partitions: int = 3) -> Seqs:
    signer = Tokens(secret=secret, topic_ids={"profiles": topic_id, "profile-emails": "7"})
    return Seqs(signer=signer, topic="profiles", topic_id=topic_id, partitions=partitions)


@given(
    offsets=st.lists(st.integers(0, 2**62), min_size=1, max_size=300),
    moment_s=st.integers(0, 2**32 - 1),
    is_whole=st.booleans(),
)
def test_a_place_comes_back_as_it_was(offsets: list[int], moment_s: int, is_whole: bool) -> None:
    """Whatever the number of partitions and the offsets, read by another object with the same secret."""
    position = Position(tuple(offsets), None, moment_s, is_whole)
    text = seqs(partitions=len(offsets)).text(position)
    assert seqs(partitions=len(offsets)).position(text, "since") == position


def test_a_place_of_one_partition_is_small_and_of_that_one_alone() -> None:
    """It can be had out of a place of all, and not the other way round."""
    everything = Position((4, 5, 6), None, 9, is_whole=True)
    one = everything.narrowed(2)
    assert seqs().position(seqs().text(one), "since") == one == Position((6,), 2, 9, is_whole=True)
    assert one.narrowed(2) is one
    assert [one.slot(partition) for partition in range(3)] == [-1, -1, 0]
    for wanted in (None, 1):
        with pytest.raises(ValueError, match="alone"):
            one.narrowed(wanted)


@pytest.mark.parametrize("partitions", [512, 1024])
def test_a_place_of_hundreds_of_partitions_fits_into_a_header(partitions: int) -> None:
    """The server takes header fields of 8,190 bytes; offsets beyond two million need four bytes each."""
    text = seqs(partitions=partitions).text(Position((200_000_000,) * partitions, None, 2**32 - 1, is_whole=True))
    assert len(text) < 8_000


def test_whoever_changes_a_character_is_found_out() -> None:
    """Each character counts, and so do length and secret; what is no text of ours is refused in the same way."""
    text = seqs().text(Position((1, 2, 3), None, 5, is_whole=False))
    # The last character holds two bits that mean nothing.
    forged = [text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :] for at in range(len(text) - 1)]
    forged += [text + "A", text[:-1], "", "x", "null", "0 ", "\u00e9", "a" * 100_000]
    forged.append(seqs(secret=b"another secret of sixteen bytes").text(Position((1, 2, 3), None, 5, is_whole=True)))
    for one in forged:
        with pytest.raises(BadCursor):
            seqs().position(one, "since")


def test_a_token_of_another_kind_is_no_place() -> None:
    """A cursor of the list, signed with the same secret, does not pass."""
    tokens = Tokens(secret=SECRET, topic_ids={"profiles": "1"})
    with pytest.raises(BadCursor):
        seqs().position(tokens.of_cursor(b"0" * 36), "since")


@pytest.mark.parametrize("other", [{"topic_id": "2"}, {"partitions": 4}])
def test_a_place_of_another_topic_has_expired(other: dict[str, object]) -> None:
    """It was given out by this service, so it is not a mistake of the client, who has to begin anew."""
    text = seqs().text(Position((1, 2, 3), None, 5, is_whole=True))
    with pytest.raises(FeedExpired):
        seqs(**other).position(text, "since")  # type: ignore[arg-type]


def test_a_place_is_good_for_a_part_of_the_retention() -> None:
    """Three quarters for who had everything once, a quarter for who never had."""
    position = Position((1,), 0, 5, is_whole=True)
    hours = 3600
    assert horizon_s(position, 48 * hours * 1000) == 36 * hours
    assert horizon_s(position._replace(is_whole=False), 48 * hours * 1000) == 12 * hours
    assert position.renewed(7) == position.renewed(3).renewed(7) == Position((1,), 0, 7, is_whole=True)
