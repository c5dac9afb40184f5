"""What a request's target says, taken apart as it was sent: a key may hold slashes, signs of percent and plus, or
nothing at all, and has to come through unchanged. Pure functions.

The path that a server has decoded cannot be used for that (`%2F` has become `/`), so ASGI's `raw_path` is. A key is the
end of a path: a slash in it may be encoded or not. In a query string `+` is a blank, and `%2B` a plus (the form
encoding of the URL standard); in a path `+` is itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from streams.queries.asking import BadParameter


class Target(NamedTuple):
    """`words`: the first segments of the path, as text. `rest`: what follows them, decoded; None: nothing, not even
    a slash."""

    words: Sequence[str]
    rest: bytes | None


def target_of(scope: Mapping[str, Any], words: int) -> Target:
    """Return the first segments of the path, *words* at most, and the rest. *scope*: of ASGI."""
    raw: bytes = (scope.get("raw_path") or quote(scope["path"]).encode()).partition(b"?")[0]
    root = scope.get("root_path", "").encode()
    segments = raw.removeprefix(root).split(b"/")[1:]
    found = [unquote_to_bytes(segment).decode("utf-8", "replace") for segment in segments[:words]]
    return Target(found, unquote_to_bytes(b"/".join(segments[words:])) if len(segments) > words else None)


def instance_of(scope: Mapping[str, Any]) -> str:
    """Return the path in ASCII, for a problem."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw[:2048].partition(b"?")[0].decode("latin-1").encode("ascii", "replace").decode()


class Parameters:
    """The query string. Unknown parameters are ignored, so that new ones can be added; one that is asked for and was
    sent twice is refused, since two readers may take either."""

    def __init__(self, query_string: bytes) -> None:
        self._values: dict[str, list[bytes]] = {}
        for pair in query_string.split(b"&"):
            name, equals, value = pair.replace(b"+", b" ").partition(b"=")
            if name or equals:
                key = unquote_to_bytes(name).decode("utf-8", "replace")
                self._values.setdefault(key, []).append(unquote_to_bytes(value))

    def raw(self, name: str) -> bytes | None:
        """Return a parameter, None when it is absent. Raises BadParameter."""
        values = self._values.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise BadParameter(name, f"{name} was sent {len(values)} times")
        return values[0]

    def text(self, name: str, *choices: str) -> str | None:
        """Return a parameter as text, one of *choices* if there are any. Raises BadParameter."""
        value = self.raw(name)
        if value is None:
            return None
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            raise BadParameter(name, f"{name} is not UTF-8") from error
        if choices and text not in choices:
            raise BadParameter(name, f"{name} is {' or '.join(choices)}")
        return text

    def number(self, name: str) -> int | None:
        """Return a parameter as a whole number. Raises BadParameter."""
        text = self.text(name)
        if text is None:
            return None
        if not text.removeprefix("-").isdecimal() or not text.isascii() or len(text) > 20:
            raise BadParameter(name, f"{name} is a whole number")
        number = int(text)
        return max(-(1 << 63), min(number, (1 << 63) - 1))
