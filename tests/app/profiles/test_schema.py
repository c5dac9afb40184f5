"""Validation of documents: every code of the module's table, and merge patches as RFC 7396 defines them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.profiles import model, schema
from app.profiles.email import EmailPolicy, normalise
from app.profiles.model import Change, NewProfile, Profile
from app.profiles.results import ValidationFailed
from app.profiles.schema import Validator

UID = "74292b21-0fbb-4f1d-a18f-fa80f947fa5d"
VALIDATOR = Validator(EmailPolicy.PUBLIC)
BOB = {"username": "bob", "email": "bob1@mail.com"}


def faults(call: Any, *arguments: object) -> list[tuple[str, str]]:
    """Return pointer and code of each fault."""
    with pytest.raises(ValidationFailed) as caught:
        call(*arguments)
    assert all(error.detail for error in caught.value.errors)
    return [(error.pointer, error.code) for error in caught.value.errors]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        *((other, [("#", "not_an_object")]) for other in (None, [], [BOB], "bob", 1, 1.5, True)),
        ({}, [("#/username", "required"), ("#/email", "required")]),
        ({**BOB, "username": None}, [("#/username", "null")]),
        ({**BOB, "email": None}, [("#/email", "null")]),
        *(({**BOB, "username": odd}, [("#/username", "invalid_type")]) for odd in (1, 1.5, True, [], {}, ["bob"])),
        ({**BOB, "email": 12}, [("#/email", "invalid_type")]),
        ({**BOB, "username": ""}, [("#/username", "too_short")]),
        ({**BOB, "username": "x" * 65}, [("#/username", "too_long")]),
        *(({**BOB, "username": f"b{c}b"}, [("#/username", "control_character")]) for c in "\x00\n\x1f\x7f\x80\x9f"),
        ({**BOB, "username": "\ud800"}, [("#/username", "invalid_unicode")]),
        ({**BOB, "email": "bob"}, [("#/email", "invalid_email")]),
        ({**BOB, "email": "bob\ud800@mail.com"}, [("#/email", "invalid_email")]),
        ({**BOB, "role": "admin"}, [("#/role", "unknown_member")]),
        ({**BOB, "a/b~c": 1}, [("#/a~1b~0c", "unknown_member")]),
        (
            {"username": "\x00" * 65, "email": "", "x": 1},
            [
                ("#/username", "too_long"),
                ("#/username", "control_character"),
                ("#/email", "invalid_email"),
                ("#/x", "unknown_member"),
            ],
        ),
    ],
)
def test_each_fault_has_its_pointer_and_code(document: object, expected: list[tuple[str, str]]) -> None:
    """Create and replacement name all faults of a document at once, each by a stable code."""
    assert faults(VALIDATOR.new, document) == expected
    assert faults(VALIDATOR.replacement, document, UID) == expected


def test_username_keeps_every_character_and_counts_code_points() -> None:
    """64 characters outside the basic plane are as good as 64 letters, and nothing is normalised away."""
    for username in ("x" * 64, "\U0001f600" * 64, " ", "jo\u0301se", "\u00a0"):
        assert VALIDATOR.new({**BOB, "username": username}).username == username


def test_members_that_only_the_service_sets_are_ignored() -> None:
    """What GET gave can be sent back as it is, and odd values there harm nobody."""
    document = {**BOB, "uid": UID, "version": 7, "created_at": "x", "updated_at": None}
    expected = ("bob", normalise("bob1@mail.com"))
    assert VALIDATOR.new(document) == NewProfile(*expected)
    assert VALIDATOR.replacement(document, UID) == Change(*expected)
    assert VALIDATOR.new({**document, "uid": 3}) == NewProfile(*expected)


@pytest.mark.parametrize("uid", ["74292b21-0fbb-4f1d-a18f-fa80f947fa5e", UID.upper(), None, 1])
def test_another_uid_than_the_paths_is_a_fault(uid: object) -> None:
    """A uid cannot be changed, by replacement or by patch; it is told beside the other faults."""
    assert faults(VALIDATOR.replacement, {**BOB, "uid": uid}, UID) == [("#/uid", "uid_mismatch")]
    assert faults(VALIDATOR.patch, {"uid": uid, "role": 1}, UID) == [
        ("#/uid", "uid_mismatch"),
        ("#/role", "unknown_member"),
    ]


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396 section 2, word for word: the reference for what a patch means."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


@pytest.mark.parametrize(
    ("original", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_the_reference_passes_the_table_of_the_rfc(original: Any, patch: Any, result: Any) -> None:
    """RFC 7396 appendix A, all 15 rows: so the reference may judge ours."""
    assert merge_patch(original, patch) == result


_values = st.one_of(
    st.sampled_from(["bob", "eve", "", "bob1@mail.com", "Bob1@Mail.com", "eve@mail.com", "x" * 65]),
    st.none(),
    st.integers(),
    st.booleans(),
    st.lists(st.just("a"), max_size=1),
    st.dictionaries(st.sampled_from(["a", "username"]), st.none() | st.just("bob"), max_size=2),
)
_patches = st.one_of(
    st.dictionaries(st.sampled_from(["username", "email"]), _values, max_size=2),
    _values.filter(lambda value: not isinstance(value, dict)),
)


@settings(max_examples=500, deadline=None)
@given(_patches)
def test_patch_means_what_replacing_by_the_merged_document_means(patch: Any) -> None:
    """Our short cut (check the patch alone) and the RFC's way (merge, then check) accept the same, to the same end."""
    before = model.created(UID, VALIDATOR.new(BOB), "2026-01-01T00:00:00.000Z")

    def outcome(call: Any, document: Any) -> Profile | None:
        try:
            return model.changed(before, call(document, UID), "2026-01-01T00:00:01.000Z")
        except ValidationFailed:
            return None

    assert outcome(VALIDATOR.patch, patch) == outcome(VALIDATOR.replacement, merge_patch(BOB, patch))


def test_patch_of_a_misspelt_member_is_refused_also_when_it_removes() -> None:
    """The RFC would take the removal of an unknown member for nothing to do; here it is most likely a typo."""
    assert faults(VALIDATOR.patch, {"emial": None}, UID) == [("#/emial", "unknown_member")]


@given(
    document=st.fixed_dictionaries(
        {},
        optional={
            "username": st.text(alphabet=st.characters(), max_size=70) | st.none() | st.integers(),
            "email": st.sampled_from(["bob@mail.com", "Bob@Mail.COM", "j\u00f6@ex\u00e4mple.com", "x", ""])
            | st.text(max_size=9),
            "uid": st.just("x"),
            "role": st.just("admin"),
        },
    )
)
def test_the_short_way_loads_what_the_schema_loads(document: dict[str, object]) -> None:
    """Whatever the plain check accepts, marshmallow accepts, with the same content."""
    plain = schema._plain(EmailPolicy.PUBLIC, document)
    if plain is not None:
        assert plain == schema.ProfileContent().load(document)


def test_the_short_way_is_taken_for_the_commonest_document() -> None:
    """Else the test above would prove nothing."""
    assert schema._plain(EmailPolicy.PUBLIC, {"username": "bob", "email": "bob1@mail.com"}) is not None
