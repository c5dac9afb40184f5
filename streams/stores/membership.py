"""A store that answers "was this key ever added?" in little space, and is sometimes wrong: a Bloom filter that
persists.

"No" is always right; "yes" is wrong for about `error_rate` of the keys that were not added, as long as no more than
`capacity` were. The filter is divided into blocks of 64 bytes; a key sets bits of one block only (a "blocked" Bloom
filter: Putze, Sanders and Singler, 2007), so that adding a key writes one small row, and not the whole filter. One
task, one thread.
"""

import math
import struct
from hashlib import blake2b
from typing import Generic, TypeVar

from streams.errors import TopologyError
from streams.stores.overlay import OverlayStore
from streams.topology.nodes import CurrentRecord
from streams.topology.stores import StoreSpec

K = TypeVar("K")

_BLOCK_BITS = 512
_HASH = struct.Struct(">QQQ")
_MOMENT = struct.Struct(">q")
_SPREAD = 1.3  # bits that blocks need more than one filter would, since some get more keys than others


class MembershipStore(Generic[K]):
    """A set of keys that only grows. See `StreamsBuilder.add_store` for its parameters."""

    __slots__ = ("_blocks", "_dump_key", "_hashes", "_record", "_rows", "spec")

    def __init__(self, spec: StoreSpec, rows: OverlayStore, record: CurrentRecord) -> None:
        self.spec = spec
        self._rows = rows
        self._record = record
        self._dump_key = spec.key.serialize
        self._blocks, self._hashes = shape_of(spec.options["capacity"], spec.options["error_rate_ppm"])

    def add(self, key: K) -> bool:
        """Add *key*; return whether it was there already, as `in` would have said."""
        place, wanted = self._bits(key)
        row = self._rows.get(place)
        bits = 0 if row is None else int.from_bytes(row[8:], "big")
        if bits & wanted == wanted:
            return True
        self._rows.put(
            place, _MOMENT.pack(self._record.timestamp_ms) + (bits | wanted).to_bytes(_BLOCK_BITS // 8, "big")
        )
        return False

    def __contains__(self, key: K) -> bool:
        """Say whether *key* may have been added; False is certain."""
        place, wanted = self._bits(key)
        row = self._rows.get(place)
        return row is not None and int.from_bytes(row[8:], "big") & wanted == wanted

    def _bits(self, key: K) -> tuple[bytes, int]:
        """Return the key of the block of *key*, and the bits that it sets there."""
        first, step, block = _HASH.unpack(blake2b(self._dump_key(key), digest_size=24).digest())
        wanted = 0
        for number in range(self._hashes):
            wanted |= 1 << ((first + number * (step | 1)) % _BLOCK_BITS)
        return (block % self._blocks).to_bytes(4, "big"), wanted


def shape_of(capacity: int, error_rate_ppm: int) -> tuple[int, int]:
    """Return how many blocks a filter has, and how many bits of one a key sets. *error_rate_ppm*: in millionths."""
    if capacity < 1 or not 1 <= error_rate_ppm < 1_000_000:
        raise TopologyError("a membership store needs a capacity of 1 or more, and an error rate between 0 and 1")
    error_rate = error_rate_ppm / 1e6
    bits = -capacity * math.log(error_rate) / math.log(2) ** 2 * _SPREAD
    return max(1, math.ceil(bits / _BLOCK_BITS)), max(1, round(-math.log2(error_rate)))
