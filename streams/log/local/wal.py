"""Tells a torn tail of RocksDB's write-ahead log (WAL) from damage in its middle. Reads files; changes nothing.

The log syncs after every batch before it writes the next, so a power failure can tear the last batch at most, and that
one was never acknowledged. RocksDB's own choices are too narrow (RocksDB wiki, "WAL Recovery Modes"): it either refuses
every damage but a short last record, or drops all that follows the first damage, acknowledged or not, without a word.
Source of the file's form: RocksDB wiki, "Write Ahead Log File Format".
"""

from collections.abc import Iterator
from pathlib import Path
from struct import Struct

from crc32c import crc32c

_BLOCK_BYTES = 32 * 1024
_FRAGMENT = Struct("<IHB")
_NOTHING, _FULL, _FIRST = 0, 1, 2  # kinds of fragment; others continue a batch, or describe the file


def wal_files(directory: Path) -> list[Path]:
    """Return the WAL files of a database in the order in which they were written."""
    return sorted((path for path in directory.glob("*.log") if path.stem.isdecimal()), key=lambda path: int(path.stem))


def is_tail_torn(directory: Path) -> bool:
    """Return whether the only damage lies in the last batch of the last WAL file that holds anything.

    False means that batches follow the damage, or that there is none that this can see.
    """
    contents = [content for content in (path.read_bytes() for path in wal_files(directory)) if content]
    if not contents or any(_damage(content) is not None for content in contents[:-1]):
        return False
    damaged_at = _damage(contents[-1])
    return damaged_at is not None and not _begins_batch_after(contents[-1], damaged_at)


def _damage(content: bytes) -> int | None:
    """Return where the first fragment lies that is not whole; None when all are."""
    for at, end in _fragments(content, 0):
        if end is None:
            return at
    return None


def _begins_batch_after(content: bytes, damaged_at: int) -> bool:
    """Return whether a whole fragment that begins a batch lies behind the damage.

    In the damaged block one can begin at any byte, since the length that leads to it may be what is damaged; each
    later block begins with a fragment again.
    """
    at = damaged_at
    while at < len(content):
        block_end = (at // _BLOCK_BYTES + 1) * _BLOCK_BYTES
        for start in range(at + 1, min(block_end, len(content))):
            if _is_batch_start(content, start):
                return True
        at = block_end
        for start, end in _fragments(content, block_end):
            if end is None:
                at = start
                break
            if _is_batch_start(content, start):
                return True
        else:
            return False
    return False


def _is_batch_start(content: bytes, at: int) -> bool:
    kind_at = at + _FRAGMENT.size - 1
    return kind_at < len(content) and content[kind_at] in (_FULL, _FIRST) and _fragment_end(content, at) is not None


def _fragments(content: bytes, at: int) -> Iterator[tuple[int, int | None]]:
    """Yield start and end of each fragment from *at*; the end is None for the first damaged one, which is the last."""
    while at < len(content):
        room = _BLOCK_BYTES - at % _BLOCK_BYTES
        if room < _FRAGMENT.size:
            at += room  # a block's last bytes are padding when no fragment fits
            continue
        end = _fragment_end(content, at)
        yield at, end
        if end is None:
            return
        at = end


def _fragment_end(content: bytes, at: int) -> int | None:
    """Return the end of the fragment at *at*, or None when there is no sound one."""
    if at + _FRAGMENT.size > len(content):
        return None
    checksum, length, kind = _FRAGMENT.unpack_from(content, at)
    end = at + _FRAGMENT.size + length
    room = _BLOCK_BYTES - at % _BLOCK_BYTES
    if kind == _NOTHING or _FRAGMENT.size + length > room or end > len(content):
        return None
    found = crc32c(content[at + _FRAGMENT.size - 1 : end])
    masked = ((found >> 15 | found << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return end if masked == checksum else None
