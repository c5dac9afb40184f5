"""Ids: of the right kind, in the right partition."""

import os
import uuid

import pytest

from app.profiles.uids import draw_uid, random_id, text_of
from streams.partitioner import partition_for


@pytest.mark.parametrize("partitions", [1, 2, 8, 31, 500])
def test_drawn_uids_are_version_4_and_lie_where_they_should(partitions: int) -> None:
    """A uid belongs to the wanted partition by the partitioner that every Kafka client uses, and is never repeated."""
    drawn = set()
    for wanted in range(min(partitions, 40)):
        uid = draw_uid(os.urandom, partition=wanted, partitions=partitions)
        drawn.add(uid)
        assert partition_for(uid.encode(), partitions) == wanted
        assert str(uuid.UUID(uid)) == uid
        assert (uuid.UUID(uid).version, uuid.UUID(uid).variant) == (4, uuid.RFC_4122)
    assert len(drawn) == min(partitions, 40)


def test_text_of_an_id_is_its_uuid() -> None:
    """The text is the one that the standard library gives."""
    identifier = random_id(os.urandom)
    assert text_of(identifier) == str(uuid.UUID(bytes=identifier))
