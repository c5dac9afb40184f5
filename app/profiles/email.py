"""E-mail addresses: which texts are one, how an address is shown, and the key under which it is unique.

Nothing here looks anything up (no DNS). Invariant: two texts are the same mailbox to this service exactly when their
keys are equal, and the key of a display form is the key of the text that it came from. Keys are stored in the log: a
change of this file that changes a key needs a migration.
"""

import re
import unicodedata
from enum import StrEnum
from typing import NamedTuple

from email_validator import EmailNotValidError, validate_email


class EmailPolicy(StrEnum):
    """Which domains are accepted. `internal` adds dotless hosts, `.test` and `.local` to what is `public`."""

    PUBLIC = "public"
    INTERNAL = "internal"


class Address(NamedTuple):
    """A valid address. `display`: as given, in NFC with the domain in lower case. `key`: UTF-8, what is unique."""

    display: str
    key: bytes


class InvalidEmail(ValueError):
    """The text is not an address under the policy. The message never repeats the text."""


MAX_BYTES = 254  # RFC 3696 erratum 1690; counted in UTF-8 (RFC 6531)

# The library takes 19 us, most of it to look at single characters. This pattern takes the plain form that nearly all
# addresses have: labels without double hyphens (so no Punycode), a top-level domain of letters that is not reserved.
# It must accept nothing that the library refuses, and is matched with the text already in lower case and known to be
# ASCII. At most 64 characters, so that no label can be too long. Separators and letters are disjoint: no backtracking.
_PLAIN = re.compile(
    r"[a-z0-9]+(?:[._+-][a-z0-9]+)*@(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+"
    r"(?!(?:arpa|invalid|local|localhost|onion|test)\Z)[a-z]{2,}\Z"
).match
_PLAIN_MAX = 64

# RFC 2142: these mailboxes are case-insensitive everywhere, so the library also shows them in lower case.
_ROLES = frozenset(
    (
        *("info", "marketing", "sales", "support", "abuse", "noc", "security"),
        *("postmaster", "hostmaster", "usenet", "news", "webmaster", "www", "uucp", "ftp"),
    )
)

# Names that the library reserves and that the internal policy allows, each with a stand-in of the same length that is
# no reserved name: the library has no switch for them, and its list is a global that others in the process may use.
_STAND_INS = {"local": "locax", "localhost": "localhosx"}


def normalise(text: str, policy: EmailPolicy = EmailPolicy.PUBLIC) -> Address:
    """Return the address in *text*. Raises InvalidEmail. Pure; about 1 us for a plain one, else 25 us."""
    if len(text) <= _PLAIN_MAX and text.isascii():
        lower = text.lower()
        if _PLAIN(lower):
            key = lower.encode()
            if lower == text:
                return Address(lower, key)
            at = lower.index("@")
            local = lower[:at]
            return Address((local if local in _ROLES else text[:at]) + lower[at:], key)
    return _normalise_any(text, policy)


def stored_key(display: str) -> bytes:
    """Return the key of a *display* form that `normalise` made before, without judging it by a policy.

    Raises InvalidEmail for a text that no policy accepts, as far as telling the key needs it.
    """
    if display.isascii():
        # A display form has its Punycode decoded, so an ASCII one is its own A-label form.
        if "@" not in display or len(display) > MAX_BYTES:
            raise InvalidEmail("not an e-mail address")
        return display.lower().encode()
    return _normalise_any(display, EmailPolicy.INTERNAL).key


def _normalise_any(text: str, policy: EmailPolicy) -> Address:
    if len(text) > MAX_BYTES:  # before the library looks at each character of a megabyte
        raise InvalidEmail(f"longer than {MAX_BYTES} bytes")
    is_internal = policy is EmailPolicy.INTERNAL
    reserved = _reserved_tail(text) if is_internal else None
    if reserved is not None:
        text = text[: -len(reserved)] + _STAND_INS[reserved]
    try:
        found = validate_email(
            text, check_deliverability=False, test_environment=is_internal, globally_deliverable=not is_internal
        )
    except (EmailNotValidError, UnicodeError) as error:  # UnicodeError: a lone surrogate
        raise InvalidEmail("not an e-mail address") from error
    local, domain, ascii_domain = found.local_part, found.domain, found.ascii_domain
    if is_internal and ascii_domain.rpartition(".")[2].isdigit():
        raise InvalidEmail("an IP address is not a mail domain")
    if reserved is not None:
        domain = domain[: -len(reserved)] + reserved
        ascii_domain = ascii_domain[: -len(reserved)] + reserved
    # lower(), not casefold() or NFKC: those merge letters of different mailboxes (CVE-2019-19844).
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", local).lower())
    return Address(f"{local}@{domain}", f"{folded}@{ascii_domain}".encode())


def _reserved_tail(text: str) -> str | None:
    """Return the reserved name that the internal policy allows and *text* ends in: `x.local`, `local`, `localhost`."""
    domain = text.rpartition("@")[2].lower()
    if domain == "localhost":
        return domain
    return "local" if domain == "local" or domain.endswith(".local") else None
