"""Interactive queries for Python: the stores of the application that runs in this process (`StoreQueries`), with the
methods that the client of a distant one has, too (`streams.queries.remote.RemoteQueries`).

Keys go in and entries come out as the values of the store's serdes. Everything else is as over HTTP: answered by the
owner of a key, one hop away at most, or merged over all nodes.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from streams.clock import Deadline
from streams.queries.asking import (
    ALL,
    CLUSTER,
    GET,
    MAX_LIMIT,
    PLAIN,
    PREFIX,
    RANGE,
    SESSION,
    WINDOW,
    Ask,
    Freshness,
    Part,
)
from streams.queries.counts import StoreCount
from streams.queries.instances import instances, instances_of_key, instances_of_store
from streams.queries.reads import RawPage, StoreReads
from streams.queries.text import python_entry
from streams.serdes import STRING
from streams.stores.typed import after_prefix

_DEADLINE_S = 10.0


class Entry(NamedTuple):
    """One entry of a store. `key`: of a window or session store a `Windowed` key. `value`: True of a membership store,
    which may be wrong. `timestamp_ms`: that of the entry, Unix time."""

    key: Any
    value: Any
    timestamp_ms: int


class Page(NamedTuple):
    """Entries in the order of their keys in the store. `next`: the cursor of those that follow, None at the end.
    `parts`: who told of which partition; `missing`: the partitions that nobody could tell of."""

    entries: Sequence[Entry]
    next: str | None
    parts: Sequence[Part]
    missing: Sequence[int] = ()


class Options(NamedTuple):
    """How a question is put. `scope`: `cluster`, or `local` for this node alone. `is_partial`: name partitions that
    nobody can tell of now instead of failing. `freshness`: what the answer has to rest on. `timeout_s`: for one page;
    Unavailable when it has passed."""

    scope: str = CLUSTER
    freshness: Freshness = PLAIN
    is_partial: bool = False
    timeout_s: float = _DEADLINE_S


USUAL = Options()


class StoreQueries:
    """Event loop only. Every method raises QueryError (UnknownStore, WrongQuery, BadParameter, BadCursor) for a
    question that makes no sense, Unavailable for one that cannot be answered now, and SerializationError for a key of
    another type than the store's.

    Lists come in pages of *limit* entries, 1 to 1000, or fewer when they are large; the `next` of a page is the
    *cursor* of the one after it, for the same question, on any instance. A list is no snapshot: pages are read one
    after the other.
    """

    def __init__(self, reads: StoreReads) -> None:
        self._reads = reads

    async def get(self, store: str, key: Any, *, options: Options = USUAL) -> Entry | None:
        """Return the entry of *key*, None if there is none: only who knows says so. Key-value and membership stores."""
        page = await self._ask(Ask(store, GET, key=self._key(store, key), limit=1), options, None)
        return page.entries[0] if page.entries else None

    async def all(self, store: str, *, limit: int = 100, cursor: str | None = None, options: Options = USUAL) -> Page:
        """Return the first *limit* entries, or those after *cursor*. All stores but membership stores."""
        return await self._ask(Ask(store, ALL, limit=limit), options, cursor)

    async def range(
        self,
        store: str,
        from_key: Any = None,
        to_key: Any = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        options: Options = USUAL,
    ) -> Page:
        """Return entries from *from_key* to *to_key*, both included, None for no bound, in the order of the keys'
        bytes. Key-value stores."""
        low = b"" if from_key is None else self._key(store, from_key)
        high = None if to_key is None else self._key(store, to_key) + b"\0"
        return await self._ask(Ask(store, RANGE, low=low, high=high, limit=limit), options, cursor)

    async def prefix(
        self,
        store: str,
        prefix: str | bytes,
        *,
        limit: int = 100,
        cursor: str | None = None,
        options: Options = USUAL,
    ) -> Page:
        """Return the entries whose key's bytes begin with *prefix* (text: its UTF-8). Key-value stores."""
        low = STRING.serialize(prefix) if isinstance(prefix, str) else prefix
        ask = Ask(store, PREFIX, low=low, high=after_prefix(low), limit=limit)
        return await self._ask(ask, options, cursor)

    async def window(
        self,
        store: str,
        key: Any,
        from_ms: int = 0,
        to_ms: int | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        options: Options = USUAL,
    ) -> Page:
        """Return the windows of *key* that start from *from_ms* to *to_ms*, both included. Window stores."""
        ask = Ask(store, WINDOW, key=self._key(store, key), from_ms=from_ms, limit=limit)
        return await self._ask(ask if to_ms is None else ask._replace(to_ms=to_ms), options, cursor)

    async def session(
        self,
        store: str,
        key: Any,
        from_ms: int = 0,
        to_ms: int | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        options: Options = USUAL,
    ) -> Page:
        """Return the sessions of *key* that touch the time from *from_ms* to *to_ms*, both included. Session stores."""
        ask = Ask(store, SESSION, key=self._key(store, key), from_ms=from_ms, limit=limit)
        return await self._ask(ask if to_ms is None else ask._replace(to_ms=to_ms), options, cursor)

    async def scan(self, store: str, *, options: Options = USUAL) -> AsyncIterator[Entry]:
        """Yield every entry of *store*, a page at a time. It ends at the end, or raises."""
        cursor: str | None = None
        while True:
            page = await self.all(store, limit=MAX_LIMIT, cursor=cursor, options=options)
            for entry in page.entries:
                yield entry
            cursor = page.next
            if cursor is None:
                return

    async def approximate_num_entries(self, store: str, *, options: Options = USUAL) -> int:
        """Return about how many rows *store* has; see `streams.queries.counts` for how far that can be off."""
        return (await self.count(store, options=options)).rows

    async def count(self, store: str, *, options: Options = USUAL) -> StoreCount:
        """Return about how many rows *store* has, partition by partition."""
        deadline = Deadline.after(options.timeout_s, self._reads.clock)
        return await self._reads.count(store, deadline, scope=options.scope, is_partial=options.is_partial)

    async def stores(self) -> dict[str, str]:
        """Return the kind of each store, by its name."""
        return {name: spec.kind.value for name, spec in self._reads.stores.items()}

    async def metadata(self) -> dict[str, Any]:
        """Return all instances and what they have: `instances` with address, role and partitions by store,
        `global_stores` and `subtopologies`; as `/metadata` over HTTP. A hint of the moment."""
        return await instances(self._reads)

    async def metadata_of(self, store: str) -> dict[str, Any]:
        """Return kind and serdes of *store*, and of each of its `partitions` who owns and who follows it, and how far
        each is."""
        return await instances_of_store(self._reads, store)

    async def metadata_of_key(self, store: str, key: Any) -> dict[str, Any]:
        """Return where *key* is, whether or not it has an entry: `partition`, `owner`, and all `instances` with a
        copy."""
        return await instances_of_key(self._reads, store, self._key(store, key))

    def _key(self, store: str, key: Any) -> bytes:
        serde = self._reads.spec(store).key
        return bytes(serde.serialize(key))

    async def _ask(self, ask: Ask, options: Options, cursor: str | None) -> Page:
        page: RawPage = await self._reads.ask(
            ask._replace(freshness=options.freshness),
            Deadline.after(options.timeout_s, self._reads.clock),
            scope=options.scope,
            cursor=cursor,
            is_partial=options.is_partial,
        )
        spec = self._reads.spec(ask.store)
        entries = [Entry(*python_entry(spec, place, row)) for place, row in page.rows]
        return Page(entries, page.next, page.parts, page.missing)
