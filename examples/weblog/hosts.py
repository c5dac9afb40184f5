"""The stores of all instances, as the routes ask for them."""

from collections.abc import AsyncIterator, Awaitable, Callable

from streams.queries.asking import MAX_LIMIT
from streams.queries.stores import Entry, Page, StoreQueries


class StoredHosts:
    """What is asked of the stores, answered by whoever has it. Event loop only; raises as `StoreQueries`."""

    def __init__(self, queries: StoreQueries) -> None:
        self._queries = queries

    async def get(self, store: str, host: str) -> int | None:
        """Return the number of *host*, or None."""
        entry = await self._queries.get(store, host)
        return None if entry is None else int(entry.value)

    async def entries(self, store: str, from_host: str | None, to_host: str | None) -> AsyncIterator[tuple[str, int]]:
        """Yield hosts and numbers in the order of the hosts' bytes; both bounds included, None for no bound."""
        async for entry in _walk(
            lambda cursor: self._queries.range(store, from_host, to_host, limit=MAX_LIMIT, cursor=cursor)
        ):
            yield entry.key, entry.value

    async def count(self, store: str) -> int:
        """Return about how many hosts there are."""
        return await self._queries.approximate_num_entries(store)

    async def windows(self, store: str, host: str, from_ms: int, to_ms: int) -> list[tuple[int, int]]:
        """Return start and number of the windows of *host* that begin within these times, both included."""
        entries = _walk(
            lambda cursor: self._queries.window(store, host, from_ms, to_ms, limit=MAX_LIMIT, cursor=cursor)
        )
        return [(entry.key.start_ms, entry.value) async for entry in entries]

    async def contains(self, store: str, host: str) -> bool:
        """Say whether *host* may have been added; False is certain."""
        return await self._queries.get(store, host) is not None


async def _walk(page_after: Callable[[str | None], Awaitable[Page]]) -> AsyncIterator[Entry]:
    """Yield the entries of a list, a page at a time."""
    cursor: str | None = None
    while True:
        page = await page_after(cursor)
        for entry in page.entries:
            yield entry
        cursor = page.next
        if cursor is None:
            return
