"""Updates of tables in bytes, for the repartition topic of a grouped table: both values of a row in one record.

One byte says which values there are (1: new, 2: old, 3: both); with both, 4 bytes have the length of the new one.
"""

from typing import Any

from streams.errors import SerializationError
from streams.operators.tables import Change
from streams.serdes import Serde

_NEW, _OLD, _BOTH = b"\x01", b"\x02", b"\x03"


class ChangeSerde:
    """`Change` in bytes. At least one of its values is not None."""

    __slots__ = ("_value", "name")

    def __init__(self, value: Serde[Any]) -> None:
        self.name = f"change<{value.name}>"
        self._value = value

    def serialize(self, value: Change) -> bytes:
        """Return the bytes of *value*."""
        new, old = value
        if old is None:
            return _NEW + self._value.serialize(new)
        if new is None:
            return _OLD + self._value.serialize(old)
        new_bytes = self._value.serialize(new)
        return _BOTH + len(new_bytes).to_bytes(4, "big") + new_bytes + self._value.serialize(old)

    def deserialize(self, data: bytes) -> Change:
        """Return the change of *data*. Raises SerializationError for anything else."""
        flag, load = data[:1], self._value.deserialize
        if flag == _NEW:
            return Change((load(data[1:]), None))
        if flag == _OLD:
            return Change((None, load(data[1:])))
        if flag == _BOTH and len(data) >= 5:
            end = 5 + int.from_bytes(data[1:5], "big")
            return Change((load(data[5:end]), load(data[end:])))
        raise SerializationError(f"{self.name} cannot read {data[:20]!r}")
