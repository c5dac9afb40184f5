"""What a request's content must be, in marshmallow; OpenAPI is generated from the same schemas, so they cannot differ.

Nothing here knows HTTP or the state. All faults of a document are reported at once, as FieldErrors with these codes:

    code                pointer       when
    not_an_object       #             the document is an array, a string, a number, a boolean or null
    required            #/<member>    a member is missing
    null                #/<member>    a member is null (in a merge patch: it would be removed, and is required)
    invalid_type        #/<member>    not a string (nothing is converted)
    too_short           #/username    empty
    too_long            #/username    more than 64 characters (code points)
    control_character   #/username    C0, DEL or C1
    invalid_unicode     #/username    a lone surrogate, which UTF-8 cannot carry
    invalid_email       #/email       not an address under the policy, or longer than 254 bytes
    unknown_member      #/<member>    a member that profiles do not have
    uid_mismatch        #/uid         a uid that is not the one in the path

and of an exported profile, whose other members count too:

    invalid_uid         #/uid         not the text of a UUID in lower case
    invalid_type        #/version     not a whole number
    out_of_range        #/version     below 1, or more than 2^53 - 1
    invalid_time        #/created_at  not RFC 3339 in UTC with milliseconds, as the service writes it
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from marshmallow import RAISE, Schema, ValidationError, fields

from app.profiles.email import MAX_BYTES, EmailPolicy, InvalidEmail, normalise
from app.profiles.model import Change, NewProfile, Profile, restored
from app.profiles.results import FieldError, ValidationFailed

USERNAME_MAX = 64

#: Members that only the service sets. In a request they are ignored, so that GET, edit, PUT works.
READ_ONLY = frozenset({"uid", "version", "created_at", "updated_at"})

_DETAILS = {
    "not_an_object": "The document must be a JSON object.",
    "required": "This member is required.",
    "null": "This member is required and cannot be null.",
    "invalid_type": "This member must be a string.",
    "too_short": "This member must not be empty.",
    "too_long": f"This member must have at most {USERNAME_MAX} characters.",
    "control_character": "This member must not contain control characters.",
    "invalid_unicode": "This member must not contain lone surrogates.",
    "invalid_email": "This member must be an e-mail address that this service accepts.",
    "unknown_member": "Profiles have no such member.",
    "uid_mismatch": "The uid differs from the one in the path; a uid cannot be changed.",
    "invalid_uid": "This member must be the text of a UUID in lower case.",
    "out_of_range": "This member must be from 1 to 9007199254740991.",
    "invalid_time": "This member must be a time in UTC, in the form 2026-01-31T23:59:59.999Z.",
}

# marshmallow takes messages; ours are the codes, and `_error` adds the sentence.
_MESSAGES: dict[str, str | list[Any] | dict[Any, Any]] = {
    "required": "required",
    "null": "null",
    "invalid": "invalid_type",
}

_find_control = re.compile("[\x00-\x1f\x7f-\x9f]").search
_find_surrogate = re.compile("[\ud800-\udfff]").search
_is_time = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z").fullmatch
_MAX_VERSION = 2**53 - 1  # what every JSON reader can hold exactly, and one more for the tombstone
_is_username = re.compile(f"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{USERNAME_MAX}}}").fullmatch


def _check_username(text: str) -> None:
    """Raise ValidationError with every code that applies."""
    codes = []
    if not text:
        codes.append("too_short")
    if len(text) > USERNAME_MAX:
        codes.append("too_long")
    if _find_control(text):
        codes.append("control_character")
    if _find_surrogate(text):
        codes.append("invalid_unicode")
    if codes:
        raise ValidationError(codes)


class EmailField(fields.String):
    """A string that is an e-mail address under the schema's policy; it loads as an Address."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        assert isinstance(self.parent, ProfileContent)
        try:
            return normalise(text, self.parent.policy)
        except InvalidEmail:
            raise ValidationError("invalid_email") from None


class ProfileContent(Schema):
    """What a client sets: the body of POST and PUT, and with `partial=True` of PATCH."""

    class Meta:
        unknown = RAISE

    error_messages = {"unknown": "unknown_member", "type": "not_an_object"}  # noqa: RUF012 - marshmallow's own form

    username = fields.String(
        required=True,
        validate=_check_username,
        error_messages=_MESSAGES,
        metadata={
            "description": "Any name; it need not be unique. No control characters.",
            "minLength": 1,
            "maxLength": USERNAME_MAX,
            "example": "bob",
        },
    )
    email = EmailField(
        required=True,
        error_messages=_MESSAGES,
        metadata={
            "description": "Unique among all profiles, whatever the letter case.",
            "format": "email",
            "maxLength": MAX_BYTES,
            "example": "bob1@mail.com",
        },
    )

    def __init__(self, *, policy: EmailPolicy = EmailPolicy.PUBLIC, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.policy = policy


def _check_time(text: str) -> None:
    """Raise ValidationError unless *text* has the one form that the service itself writes."""
    try:
        is_time = _is_time(text) is not None and bool(datetime.fromisoformat(text))
    except ValueError:
        is_time = False
    if not is_time:
        raise ValidationError("invalid_time")


def _check_version(number: int) -> None:
    if not 1 <= number <= _MAX_VERSION:
        raise ValidationError("out_of_range")


class ExportedProfile(ProfileContent):
    """A profile as an export has it: what a client sets, and what only the service sets otherwise."""

    uid = fields.String(required=True, error_messages=_MESSAGES, metadata={"description": "The one in the path."})
    version = fields.Integer(
        required=True,
        strict=True,
        validate=_check_version,
        error_messages=_MESSAGES,
        metadata={"minimum": 1, "maximum": _MAX_VERSION},
    )
    created_at = fields.String(
        required=True, validate=_check_time, error_messages=_MESSAGES, metadata={"format": "date-time"}
    )
    updated_at = fields.String(
        required=True, validate=_check_time, error_messages=_MESSAGES, metadata={"format": "date-time"}
    )


class ProfileRepresentation(Schema):
    """What the service answers. Never loaded or dumped (the bytes are stored); it is there for OpenAPI."""

    uid = fields.UUID(required=True, metadata={"description": "A UUIDv4 in lower case, never used again."})
    username = fields.String(required=True, metadata={"minLength": 1, "maxLength": USERNAME_MAX})
    email = fields.String(required=True, metadata={"format": "email", "maxLength": MAX_BYTES})
    version = fields.Integer(
        required=True,
        strict=True,
        metadata={"minimum": 1, "description": "Starts at 1 and grows by one with every effective change."},
    )
    created_at = fields.DateTime(required=True, metadata={"description": "RFC 3339 in UTC, with milliseconds."})
    updated_at = fields.DateTime(required=True, metadata={"description": "RFC 3339 in UTC, with milliseconds."})


class Validator:
    """Turns documents into valid content. Raises ValidationFailed with all faults. Any thread."""

    def __init__(self, policy: EmailPolicy) -> None:
        self._whole = ProfileContent(policy=policy)
        self._partial = ProfileContent(policy=policy, partial=True)
        self._exported = ExportedProfile(policy=policy)

    def new(self, document: object) -> NewProfile:
        """Return the content of a create."""
        members = _load(self._whole, document, uid=None)
        return NewProfile(members["username"], members["email"])

    def replacement(self, document: object, uid: str) -> Change:
        """Return the change that a full replacement of the profile *uid* is."""
        members = _load(self._whole, document, uid=uid)
        return Change(members["username"], members["email"])

    def patch(self, document: object, uid: str) -> Change:
        """Return the change that a JSON Merge Patch (RFC 7396) of the profile *uid* is.

        A profile is flat and its two members are required strings. So a member of the patch replaces, an absent one
        stays, and null, which removes, is a fault whatever the present state is. An unknown member is a fault even
        where it is null, though the RFC would find nothing to remove: it is most likely a typing error.
        """
        members = _load(self._partial, document, uid=uid)
        return Change(members.get("username"), members.get("email"))

    def exported(self, document: object, uid: str) -> Profile:
        """Return the profile *uid* that an export has as *document*."""
        if not isinstance(document, dict):
            raise ValidationFailed([_error("#", "not_an_object")])
        errors = [_error("#/uid", "uid_mismatch")] if document.get("uid", uid) != uid else []
        members = _checked(self._exported, document, errors)
        content = NewProfile(members["username"], members["email"])
        return restored(
            uid,
            content,
            version=members["version"],
            created_at=members["created_at"],
            updated_at=members["updated_at"],
        )


def email_error(pointer: str = "#/email") -> FieldError:
    """Return the fault of a text that is no address."""
    return FieldError(pointer, "invalid_email", _DETAILS["invalid_email"])


def uid_error() -> FieldError:
    """Return the fault of a uid that is none."""
    return _error("#/uid", "invalid_uid")


def _load(schema: ProfileContent, document: object, *, uid: str | None) -> dict[str, Any]:
    plain = _plain(schema.policy, document)
    if plain is not None:
        return plain
    if not isinstance(document, dict):
        raise ValidationFailed([_error("#", "not_an_object")])
    errors: list[FieldError] = []
    if not READ_ONLY.isdisjoint(document):
        if uid is not None and document.get("uid", uid) != uid:
            errors.append(_error("#/uid", "uid_mismatch"))
        document = {name: value for name, value in document.items() if name not in READ_ONLY}
    return _checked(schema, document, errors)


def _checked(schema: ProfileContent, document: dict[str, Any], errors: list[FieldError]) -> dict[str, Any]:
    """Return what *schema* loads. Raises ValidationFailed with its faults behind *errors*, if there are any."""
    try:
        members: dict[str, Any] = schema.load(document)
    except ValidationError as error:
        errors += _flatten(error.messages_dict)
        raise ValidationFailed(errors) from None
    if errors:
        raise ValidationFailed(errors)
    return members


def _plain(policy: EmailPolicy, document: object) -> dict[str, Any] | None:
    """Return what the schema would load from the commonest document, exactly the two members and both valid; None for
    any other. It takes 2 us where the schema takes 10, which a write under load would feel."""
    if type(document) is not dict or len(document) != 2:
        return None
    username, email = document.get("username"), document.get("email")
    if type(username) is not str or type(email) is not str or _is_username(username) is None:
        return None
    try:
        return {"username": username, "email": normalise(email, policy)}
    except InvalidEmail:
        return None


def _flatten(messages: Mapping[Any, Any]) -> list[FieldError]:
    """Return marshmallow's messages, which are our codes, as a list in the order of the schema, unknown ones last."""
    return [_error(f"#/{_token(name)}", code) for name, codes in messages.items() for code in codes]


def _token(name: str) -> str:
    """Return a member's name as a token of a JSON pointer in a URI fragment (RFC 6901, sections 3, 4 and 6)."""
    return quote(name.replace("~", "~0").replace("/", "~1"), safe="~!$&'()*+,;=:@", errors="replace")[:200]


def _error(pointer: str, code: str) -> FieldError:
    return FieldError(pointer, code, _DETAILS[code])
