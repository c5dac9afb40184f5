"""The sink for Elasticsearch and OpenSearch: which index is written to, where the positions are, and how it is rebuilt.

Names and shapes are in `search_index`, single writes in `search_bulk`. Invariants: searchers see profiles only, through
an alias; deletes stay as tombstone documents, so that no older write can bring a profile back, however late it comes
and whatever `index.gc_deletes` is; positions lie in the index that they are about.
"""

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

import orjson

from app.replication import search_index as index
from app.replication.ports import (
    Batch,
    Change,
    Held,
    Position,
    Refused,
    SinkMoved,
    SinkUnavailable,
    SinkUnusable,
    SourceInfo,
    Written,
)
from app.replication.search_bulk import REQUEST_CHANGES, REQUESTS_IN_FLIGHT, BulkWriter
from app.replication.search_client import SearchClient, SearchSettings
from streams.errors import ConfigError

logger = logging.getLogger(__name__)

_SCAN_PAGE = 2_000
_SCROLL = "5m"
_MOVED = "index_not_found_exception"
_EXISTS = "resource_already_exists_exception"


class SearchSink:
    """A `Sink` that is `Inspectable` and `Rebuildable`. One thread."""

    def __init__(
        self,
        settings: SearchSettings,
        alias: str,
        *,
        replicas: int | None = None,
        request_changes: int = REQUEST_CHANGES,
    ) -> None:
        """*alias*: what searchers use. *replicas*: of an index that is made; None is one as soon as there is a second
        node. *request_changes*: the most that one request has. Connects to nothing. Raises ConfigError."""
        if not index.is_index_name(alias):
            raise ConfigError(
                f"{alias!r} cannot be the name of an index: lower-case letters, digits, dots, hyphens or underscores"
            )
        self._client = SearchClient(settings, connections=REQUESTS_IN_FLIGHT + 1)
        self._bulk = BulkWriter(self._client, request_changes=request_changes)
        self._alias = alias
        self._replicas = replicas
        self._index = ""  # the one that is written to
        self._target = ""  # the alias under which it is
        self._pending: dict[int, Position] = {}
        self._flushed: dict[int, Position] = {}

    def ensure(self, source: SourceInfo) -> None:
        while True:
            name = self._next_name()  # Before the look: whoever makes one meanwhile takes this name, or is seen.
            if (live := self._live()) is not None:
                break
            self._create(name, source, {self._alias: index.SEARCHED})
        self._check(live, source)
        self._write_to(live)

    def positions(self, partitions: frozenset[int]) -> Mapping[int, Position]:
        found = self._read_positions(partitions)
        self._pending.clear()
        self._flushed = dict(found)
        return found

    def write(self, batch: Batch) -> Written:
        newest: dict[str, Change] = {}
        for change in batch.changes:
            newest[change.uid] = change  # A uid has one partition, so the last one has the greatest offset.
        attempt = self._bulk.write(self._target, list(newest.values()))
        written = Written(attempt.applied, attempt.stale, attempt.refused)
        if attempt.reason is not None:
            rest = Batch(attempt.rest, batch.positions)
            raise SinkUnavailable(attempt.reason, rest=rest, done=written)
        self._pending.update(batch.positions)
        return written

    def flush(self) -> None:
        if not self._pending:
            return
        # An index that was restored from a snapshot has older positions than this process wrote, and lacks what came
        # after them.
        there = self._read_positions(frozenset(self._flushed))
        for number, position in self._flushed.items():
            if number not in there or there[number].order < position.order:
                raise SinkMoved(f"{self._index} was set back to an earlier state")
        self._bulk.put(
            self._target,
            {
                index.position_id(number): (position.order, index.position_document(number, position))
                for number, position in self._pending.items()
            },
        )
        self._flushed.update(self._pending)
        self._pending.clear()

    def close(self) -> None:
        self._bulk.close()
        self._client.close()

    # Rebuilding.

    def begin_rebuild(self, source: SourceInfo) -> None:
        self._live()  # Refuses what is not ours.
        name = index.rebuild_alias(self._alias)
        while (begun := self._begun(name, source)) is None:
            self._create(self._next_name(), source, {name: {}}, is_searched=False)
        self._write_to(begun)

    def abandon_rebuild(self) -> None:
        for name in self._indices_of(index.rebuild_alias(self._alias)):
            self._client.request("DELETE", name, expected=(200, 404))

    def finish_rebuild(self) -> None:
        name, target, old = index.rebuild_alias(self._alias), self._index, self._live()
        if old is not None and old.meta.write_alias == self._target:
            return  # Somebody else has finished it, or we have, and did not hear of it.
        if self._indices_of(self._target) != [target] or self._indices_of(name) != [target]:
            raise SinkMoved(f"{target} is not being rebuilt any more")
        self._client.request("PUT", f"{target}/_settings", {"index": {"refresh_interval": None}})
        self._client.request("POST", f"{target}/_refresh")
        actions: list[dict[str, Any]] = [
            {"add": {"index": target, "alias": self._alias, **index.SEARCHED}},
            {"remove": {"index": target, "alias": name}},
        ]
        if old is not None:
            actions.append({"remove_index": {"index": old.name}})
        if self._client.request("POST", "_aliases", {"actions": actions}, expected=(200, 404)).status == 404:
            raise SinkUnavailable("the indices are changing at this moment")
        logger.info("index_switched", extra={"index": target, "removed": old.name if old else None})

    # Inspecting.

    def attach(self, source: SourceInfo | None = None) -> None:
        live = self._live()
        if live is None:
            raise SinkUnusable(f"there is no index {self._alias}: nothing was copied there yet")
        if source is not None:
            self._check(live, source)
        self._write_to(live)

    def scan(self) -> Iterator[Held]:
        return self._scroll(index.ALL_BUT_POSITIONS)

    def look_up(self, uids: Sequence[str]) -> Mapping[str, Held]:
        return {uid: _held(document) for uid, document in self._get(uids).items()} if uids else {}

    def refused(self, limit: int) -> list[Refused]:
        with closing(self._scroll(index.REFUSED_ONLY)) as held:
            return [Refused(one.uid, one.version, one.reason or "") for one in islice(held, limit)]

    def _scroll(self, query: Mapping[str, Any]) -> Generator[Held, None, None]:
        """Yield what matches *query* now. A scroll, since all servers have it; it sees one state of the index."""
        target = self._target
        self._client.request("POST", f"{target}/_refresh")
        body = {"size": _SCAN_PAGE, "sort": ["_doc"], "query": query}
        page = self._client.request("POST", f"{target}/_search?scroll={_SCROLL}", body).document
        scroll = {"scroll": _SCROLL, "scroll_id": page["_scroll_id"]}
        try:
            while hits := _hits(page):
                yield from (_held(hit) for hit in hits)
                page = self._client.request("POST", "_search/scroll", scroll).document
        finally:
            self._client.request("DELETE", "_search/scroll", {"scroll_id": scroll["scroll_id"]}, expected=(200, 404))

    # What follows is about names.

    def _write_to(self, found: "_Found") -> None:
        if found.meta.write_alias != self._target:
            logger.info("index_written_to", extra={"index": found.name})
            self._pending.clear()
            self._flushed.clear()
        self._index, self._target = found.name, found.meta.write_alias

    def _live(self) -> "_Found | None":
        """Return the index that searchers use, None if there is none. Raises SinkUnusable for one that is not ours,
        SinkMoved when it goes away at this moment."""
        names = self._indices_of(self._alias)
        if len(names) > 1:
            raise SinkUnusable(f"{self._alias} is an alias of several indices, which this program did not make")
        if not names:
            if self._client.request("HEAD", self._alias, expected=(200, 404)).status == 200:
                raise SinkUnusable(
                    f"there is an index named {self._alias} already, which this program did not make. It needs that "
                    f"name for an alias: rename or remove the index, or choose another name (--index)"
                )
            return None
        meta = self._meta_of(names[0])
        if meta is None:
            raise SinkUnusable(f"{self._alias} is an alias of {names[0]}, which this program did not make")
        return _Found(names[0], meta)

    def _begun(self, alias: str, source: SourceInfo) -> "_Found | None":
        """Return the index that a rebuild has begun to fill from *source*; remove one that was begun otherwise."""
        found = None
        for name in self._indices_of(alias):
            meta = self._meta_of(name)
            if meta is not None and (meta.format, meta.source) == (index.FORMAT, source.identity) and found is None:
                found = _Found(name, meta)
            else:
                self._client.request("DELETE", name, expected=(200, 404))
        return found

    def _check(self, found: "_Found", source: SourceInfo) -> None:
        name, meta = found
        if meta.format != index.FORMAT:
            raise SinkUnusable(f"{name} was made by another release of this program: fill a new index with --rebuild")
        if meta.source != source.identity:
            raise SinkUnusable(
                f"{name} was filled from another topic ({meta.source}; this is {source.identity}), whose offsets say "
                f"nothing about this one: fill a new index with --rebuild"
            )

    def _next_name(self) -> str:
        known = self._client.request("GET", f"{self._alias}-*/_mapping?filter_path=*.mappings._meta").document or {}
        generation = max((index.generation_of(self._alias, name) for name in known), default=0)
        return index.concrete_name(self._alias, generation + 1)

    def _create(
        self, name: str, source: SourceInfo, aliases: Mapping[str, Mapping[str, Any]], *, is_searched: bool = True
    ) -> None:
        """Create the index *name* with all its aliases, in one step, unless somebody else was faster."""
        meta = index.Meta(index.FORMAT, source.identity, index.new_write_alias(name))
        body = index.index_body(meta, aliases, replicas=self._replicas, is_searched=is_searched)
        answer = self._client.request("PUT", name, body, expected=(200, 400))
        if answer.status == 200:
            logger.info("index_created", extra={"index": name})
        elif answer.error_type != _EXISTS:
            raise SinkUnusable(f"{name} cannot be made: {answer.error_type} {answer.document['error'].get('reason')}")

    def _indices_of(self, alias: str) -> list[str]:
        answer = self._client.request("GET", f"_alias/{alias}", expected=(200, 404))
        return sorted(answer.document) if answer.status == 200 else []

    def _meta_of(self, name: str) -> index.Meta | None:
        """Return what index *name* says of itself, None if it is not ours. Raises SinkMoved when it is gone."""
        answer = self._client.request("GET", f"{name}/_mapping", expected=(200, 404))
        if answer.status == 404:
            raise SinkMoved(f"{name} is gone")
        return index.Meta.of(answer.document[name]["mappings"])

    def _read_positions(self, partitions: frozenset[int]) -> dict[int, Position]:
        if not partitions:
            return {}
        found = self._get([index.position_id(number) for number in partitions])
        return {
            number: index.position_of(found[index.position_id(number)]["_source"])
            for number in partitions
            if index.position_id(number) in found
        }

    def _get(self, names: Sequence[str]) -> dict[str, Any]:
        """Return those of the documents *names* that are there, as of now (no refresh is needed for that). Raises
        SinkUnavailable, SinkMoved."""
        answer = self._client.request("POST", f"{self._target}/_mget", {"ids": list(names)}, expected=(200, 404))
        if answer.status == 404:
            raise SinkMoved(f"{self._target} is gone")
        found = {}
        for document in answer.document["docs"]:
            if error := document.get("error"):
                if error.get("type") == _MOVED:
                    raise SinkMoved(f"{self._target} is gone")
                raise SinkUnavailable(f"reading from {self._index}: {error.get('type')}")
            if document.get("found"):
                found[document["_id"]] = document
        return found


class _Found(NamedTuple):
    """An index of ours."""

    name: str
    meta: index.Meta


def _hits(page: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the documents of *page*. Raises SinkUnavailable when a shard did not answer: they would be too few."""
    if page["_shards"]["failed"]:
        raise SinkUnavailable("not every shard has answered")
    hits: list[dict[str, Any]] = page["hits"]["hits"]
    return hits


def _held(hit: Mapping[str, Any]) -> Held:
    """Return what a document stands for. A profile's JSON may lie otherwise than it was written."""
    uid, source = str(hit["_id"]), hit["_source"]
    ours = source.get("replication")
    if ours is None:
        return Held(uid, int(source["version"]), orjson.dumps(source))
    return Held(uid, int(source["version"]), None, ours["reason"] if ours["kind"] == index.REFUSED else None)
