"""A log whose every record follows from its offset, its fold into two stores, and a writer that can be killed.

So a store of unknown history can be judged by the position that it claims. Run as a module it is the child process of
the crash tests: it applies the log from where the store is, and prints each position that it committed.
"""

import hashlib
import itertools
import random
import sys
from functools import cache
from pathlib import Path

from streams.clock import SystemClock
from streams.stores.base import StoreIdentity, TaskStore
from streams.stores.rocksdb import RocksStoreFactory

TOPIC = "people"
STORES = ("rows", "index")
IDENTITY = StoreIdentity({TOPIC: "topic-1"}, 8, 1)
KEYS = [b"key-%03d" % number for number in range(300)]

Rows = dict[str, dict[bytes, bytes]]


@cache
def change(offset: int) -> tuple[bytes, bytes | None]:
    """Return key and value of the record: about one in five is a tombstone; the value begins with its offset."""
    digest = hashlib.blake2b(b"%d" % offset, digest_size=8).digest()
    key = KEYS[int.from_bytes(digest[:2], "big") % len(KEYS)]
    return key, None if digest[2] < 50 else b"%d:" % offset + digest * (digest[3] // 4)


def fold(position: int) -> Rows:
    """Return what the stores must hold at *position*: each key's value, and in the index its offset."""
    rows: Rows = {name: {} for name in STORES}
    for offset in range(position):
        key, value = change(offset)
        if value is None:
            rows["rows"].pop(key, None)
            rows["index"].pop(index_key(key), None)
        else:
            rows["rows"][key] = value
            rows["index"][index_key(key)] = b"%d" % offset
    return rows


def index_key(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=12).digest()


def position_of(store: TaskStore) -> int:
    return store.positions.get(TOPIC, 0)


def read_all(store: TaskStore) -> Rows:
    return {name: dict(store.scan(name)) for name in STORES}


def apply(store: TaskStore, position: int, *, is_restoring: bool = False) -> None:
    """Bring the store from where it is to *position*, in one commit."""
    batch = store.batch()
    for offset in range(position_of(store), position):
        key, value = change(offset)
        if value is None:
            batch.delete("rows", key)
            batch.delete("index", index_key(key))
        else:
            batch.put("rows", key, value)
            batch.put("index", index_key(key), b"%d" % offset)
    store.commit(batch, {TOPIC: position}, is_restoring=is_restoring)


def factory(state_dir: Path) -> RocksStoreFactory:
    return RocksStoreFactory(state_dir, cache_bytes=1 << 20, max_age_ms=None, clock=SystemClock())


def write_until_killed(state_dir: Path, mode: str, seed: int) -> None:
    """Commit batches of random sizes for ever. *mode*: `serving`, `restoring`, or `mixed`: now one, now the other."""
    chance = random.Random(seed)
    store = factory(state_dir).open(0, STORES, IDENTITY)
    print("opened", position_of(store), flush=True)
    for number in itertools.count():
        is_restoring = mode == "restoring" or (mode == "mixed" and number // 10 % 2 == 0)
        apply(store, position_of(store) + chance.choice((1, 3, 40, 400)), is_restoring=is_restoring)
        print("restored" if is_restoring else "committed", position_of(store), flush=True)


if __name__ == "__main__":
    write_until_killed(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
