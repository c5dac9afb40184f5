"""The profile value: versions, times, and the bytes that are served."""

import json

import pytest

from app.profiles import model
from app.profiles.email import normalise
from app.profiles.model import Change, NewProfile
from app.profiles.rows import profile_row

UID = "74292b21-0fbb-4f1d-a18f-fa80f947fa5d"
T0, T1 = "2026-11-21T11:32:35.123Z", "2026-11-21T11:32:36.000Z"
BOB = model.created(UID, NewProfile("bob", normalise("bob1@mail.com")), T0)


def test_body_is_compact_json_in_the_fixed_order() -> None:
    """The representation is exactly what scripts scrape: no blanks, members in the documented order, UTF-8."""
    profile = model.created(UID, NewProfile('J"ö', normalise("jö@mail.com")), T0)
    assert profile.body == (
        f'{{"uid":"{UID}","username":"J\\"ö","email":"jö@mail.com","version":1,'
        f'"created_at":"{T0}","updated_at":"{T0}"}}'.encode()
    )


def test_effective_change_takes_the_next_version_and_keeps_the_birthday() -> None:
    """A change gives version + 1 and a new updated_at; created_at stays."""
    after = model.changed(BOB, Change("eve", None), T1)
    assert json.loads(after.body) == {
        "uid": UID,
        "username": "eve",
        "email": "bob1@mail.com",
        "version": 2,
        "created_at": T0,
        "updated_at": T1,
    }


@pytest.mark.parametrize("change", [Change(None, None), Change("bob", None), Change("bob", normalise("bob1@mail.com"))])
def test_change_to_the_same_is_no_change(change: Change) -> None:
    """What equals the present state gives back the very same profile."""
    assert model.changed(BOB, change, T1) is BOB


def test_another_spelling_of_the_email_is_a_change() -> None:
    """The display form changes although the key does not."""
    after = model.changed(BOB, Change(None, normalise("Bob1@mail.com")), T1)
    assert (after.version, after.address.display, after.address.key) == (2, "Bob1@mail.com", BOB.address.key)


def test_profile_survives_its_row() -> None:
    """Reading a row gives back the profile that was written."""
    assert model.from_row(profile_row(BOB.version, bytes(16), BOB.address.key, BOB.body)) == BOB


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_763_724_755_007, "2025-11-21T11:32:35.007Z"),
        (1_763_724_755_999, "2025-11-21T11:32:35.999Z"),
        (951_782_400_050, "2000-02-29T00:00:00.050Z"),
    ],
)
def test_timestamp_is_rfc_3339_with_three_digits(time_ms: int, text: str) -> None:
    """Milliseconds are always there, so that times compare as texts."""
    assert model.timestamp(time_ms) == text
