"""What search servers really do: the facts on which the sink is built, on every kind and version that it works with.

Each test has an index of its own on one server for the file; the test of restarts is last, so that it may kill that
server. Where Elasticsearch and OpenSearch differ, the test says how.
"""

import gzip
import http.client
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.search.conftest import SERVERS, NewServer
from tests.support.search_server import Answer, SearchServer

pytestmark = [pytest.mark.search, pytest.mark.timeout(300)]

VISIBLE = {"term": {"hidden": False}}
MAPPINGS = {
    "dynamic": "strict",
    "properties": {"hidden": {"type": "boolean"}, "uid": {"type": "keyword"}, "n": {"type": "integer"}},
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, new_server: NewServer) -> Iterator[SearchServer]:
    """One server for all tests of the file."""
    server = new_server(request.param)
    yield server
    server.close()


class Index:
    """A concrete index of one test, and an alias that shows what is not hidden in it."""

    def __init__(self, server: SearchServer, **settings: object) -> None:
        self._server = server
        self.alias = f"t{uuid.uuid4().hex[:10]}"
        self.name = f"{self.alias}-000001"
        self.create(self.name, is_aliased=True, **settings)

    def create(self, name: str, *, is_aliased: bool = False, **settings: object) -> None:
        body = {
            "settings": {"number_of_shards": 1, "number_of_replicas": 0, **settings},
            "mappings": MAPPINGS,
            "aliases": {self.alias: {"filter": VISIBLE}} if is_aliased else {},
        }
        assert self._server.request("PUT", f"/{name}", body).status == 200

    def bulk(self, *lines: object, query: str = "require_alias=true", index: str | None = None) -> Answer:
        return self._server.request("POST", f"/{index or self.alias}/_bulk?{query}", lines=lines)

    def statuses(self, *lines: object, **options: str) -> list[int]:
        """Return the status of each item of a bulk request."""
        answer = self.bulk(*lines, **options)
        assert answer.status == 200, answer
        return [next(iter(item.values()))["status"] for item in answer.document["items"]]

    def write(self, uid: str, version: int, n: int = 0, *, kind: str = "external", hidden: bool = False) -> int:
        """Write one document under an external version and return the item's status."""
        return self.statuses(*document(uid, version, n, kind=kind, hidden=hidden))[0]

    def delete(self, uid: str, version: int) -> int:
        return self.statuses({"delete": {"_id": uid, "version": version, "version_type": "external"}})[0]

    def refresh(self) -> None:
        assert self._server.request("POST", f"/{self.name}/_refresh").status == 200

    def found(self, index: str | None = None) -> set[str]:
        """Return the ids of what a search through the alias finds."""
        self.refresh()
        answer = self._server.request("POST", f"/{index or self.alias}/_search", {"size": 100})
        assert answer.status == 200, answer
        return {hit["_id"] for hit in answer.document["hits"]["hits"]}


def document(uid: str, version: int, n: int = 0, *, kind: str = "external", hidden: bool = False) -> tuple[Any, Any]:
    action = {"index": {"_id": uid, "version": version, "version_type": kind}}
    return action, {"uid": uid, "n": n, "hidden": hidden}


@pytest.fixture
def index(server: SearchServer) -> Index:
    return Index(server)


def test_an_older_version_is_refused_and_one_that_is_equal_only_by_external(index: Index) -> None:
    """`external`: later versions only. `external_gte`: also the same one again, so that a repetition is a success."""
    assert index.write("a", 5) == 201
    assert index.write("a", 4) == 409
    assert index.write("a", 5) == 409
    assert index.write("a", 5, kind="external_gte") == 200
    assert index.write("a", 4, kind="external_gte") == 409
    assert index.write("a", 7) == 200


def test_a_version_is_a_long_and_zero_is_one(index: Index) -> None:
    """Versions may have gaps and be as large as offsets become."""
    assert index.write("a", 0) == 201
    assert index.write("a", 2**62) == 200
    assert index.write("a", 2**62 - 1) == 409


def test_the_rest_of_a_batch_goes_on(index: Index) -> None:
    """The answer is 200 and says of each item what became of it, in the order of the request."""
    lines = [*document("a", 1), *document("b", 1)]
    lines[3] = {**lines[3], "n": "no number"}
    answer = index.bulk(*lines, *document("c", 1))
    items = [item["index"] for item in answer.document["items"]]
    assert (answer.status, answer.document["errors"]) == (200, True)
    assert [(item["_id"], item["status"]) for item in items] == [("a", 201), ("b", 400), ("c", 201)]
    assert items[1]["error"]["type"] in {"mapper_parsing_exception", "document_parsing_exception"}


def test_a_real_delete_is_forgotten_after_a_while(server: SearchServer) -> None:
    """A deleted document's version is kept for `index.gc_deletes`; then an old write brings the document back."""
    index = Index(server, **{"index.gc_deletes": "0ms"})
    assert index.write("a", 5) == 201
    assert index.delete("a", 6) == 200
    end = time.monotonic() + 30
    while index.write("a", 4) == 409:
        assert time.monotonic() < end, "the delete was never forgotten"
        index.refresh()
    assert index.found() == {"a"}


def test_a_real_delete_is_kept_for_the_time_of_the_setting(index: Index) -> None:
    """Within `index.gc_deletes` (60 s) an old write is refused, also one for a document that was never there."""
    assert index.write("a", 5) == 201
    assert index.delete("a", 6) == 200
    assert index.delete("b", 6) == 404  # not found, and yet remembered
    index.refresh()
    assert (index.write("a", 5), index.write("b", 5)) == (409, 409)
    assert index.delete("a", 5) == 409


def test_a_hidden_document_in_place_of_a_delete_is_never_forgotten(server: SearchServer) -> None:
    """It has a version like any other document, whatever `index.gc_deletes` says, and the alias does not show it."""
    index = Index(server, **{"index.gc_deletes": "0ms"})
    assert index.write("a", 5) == 201
    assert index.found() == {"a"}
    assert index.write("a", 6, hidden=True) == 200
    for _ in range(3):
        index.refresh()
        assert index.write("a", 5) == 409
    assert index.found() == set()
    assert index.found(index.name) == {"a"}


def test_the_filter_of_an_alias_holds_for_searches_and_not_for_gets(server: SearchServer, index: Index) -> None:
    """`_search`, `_count` and a scroll leave out what is hidden; `GET /alias/_doc/id` does not: it goes by the id."""
    assert index.write("a", 1) == 201
    assert index.write("b", 1, hidden=True) == 201
    assert index.found() == {"a"}
    assert server.request("GET", f"/{index.alias}/_count").document["count"] == 1
    pages = server.request("POST", f"/{index.alias}/_search?scroll=1m", {"size": 10})
    assert [hit["_id"] for hit in pages.document["hits"]["hits"]] == ["a"]
    assert server.request("GET", f"/{index.alias}/_doc/b").status == 200


def test_a_write_that_requires_an_alias_makes_no_index(server: SearchServer, index: Index) -> None:
    """Without the alias each item is refused with 404, also under the name of an index; nothing is made."""
    missing = f"missing-{index.alias}"
    assert index.statuses(*document("a", 1), index=missing) == [404]
    assert server.request("HEAD", f"/{missing}").status == 404
    assert index.statuses(*document("a", 1), index=index.name) == [404]
    assert index.statuses(*document("a", 1)) == [201]
    server.request("DELETE", f"/{index.name}")
    answer = index.bulk(*document("a", 2))
    (item,) = (item["index"] for item in answer.document["items"])
    assert (item["status"], item["error"]["type"]) == (404, "index_not_found_exception")


def test_a_request_without_that_requirement_makes_an_index(server: SearchServer, index: Index) -> None:
    """What goes wrong without `require_alias`: an index under the alias's name, with mappings that it guessed."""
    stray = f"stray-{index.alias}"
    assert index.statuses(*document("a", 1), index=stray, query="require_alias=false") == [201]
    assert server.request("HEAD", f"/{stray}").status == 200
    server.request("DELETE", f"/{stray}")


def test_an_alias_is_switched_and_the_old_index_removed_at_once(server: SearchServer, index: Index) -> None:
    """One request to `_aliases` adds the alias to the new index and removes the old one: no moment without."""
    assert index.write("old", 1) == 201
    new = f"{index.alias}-000002"
    index.create(new)
    assert index.statuses(*document("new", 1), index=new, query="refresh=true") == [201]
    add = {"add": {"index": new, "alias": index.alias, "filter": VISIBLE}}
    actions = {"actions": [add, {"remove_index": {"index": index.name}}]}
    assert server.request("POST", "/_aliases", actions).document["acknowledged"]
    index.name = new
    assert index.found() == {"new"}
    assert server.request("HEAD", f"/{index.alias}-000001").status == 404


def test_an_alias_over_two_indices_takes_no_writes(server: SearchServer, index: Index) -> None:
    """Unless one of them is the write index; each write is refused, and searches go over both."""
    index.create(f"{index.alias}-000002", is_aliased=True)
    assert index.statuses(*document("a", 1)) == [400]


def test_a_compressed_request_is_read(server: SearchServer, index: Index) -> None:
    """`Content-Encoding: gzip` on `_bulk`."""
    body = b"".join(json.dumps(line).encode() + b"\n" for line in document("a", 1))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
    connection.request("POST", f"/{index.alias}/_bulk?require_alias=true", gzip.compress(body), headers)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["errors"]) == (200, False)
    connection.close()
    assert index.found() == {"a"}


def test_all_documents_can_be_read_in_pages(server: SearchServer, index: Index) -> None:
    """By `search_after` on a keyword field, with the versions; a scroll does it without a field to sort by."""
    count = 25
    assert set(index.statuses(*(line for n in range(count) for line in document(f"u{n:02}", n + 1)))) == {201}
    index.refresh()
    seen: list[tuple[str, int]] = []
    after: list[str] | None = None
    while True:
        query = {"size": 10, "sort": [{"uid": "asc"}], "version": True, **({"search_after": after} if after else {})}
        hits = server.request("POST", f"/{index.name}/_search", query).document["hits"]["hits"]
        if not hits:
            break
        seen += [(hit["_id"], hit["_version"]) for hit in hits]
        after = hits[-1]["sort"]
    assert seen == [(f"u{n:02}", n + 1) for n in range(count)]
    page = server.request("POST", f"/{index.name}/_search?scroll=1m", {"size": 10, "sort": ["_doc"], "version": True})
    scrolled: list[str] = []
    while page.document["hits"]["hits"]:
        scrolled += [hit["_id"] for hit in page.document["hits"]["hits"]]
        body = {"scroll": "1m", "scroll_id": page.document["_scroll_id"]}
        page = server.request("POST", "/_search/scroll", body)
    assert sorted(scrolled) == [uid for uid, _ in seen]


def test_a_point_in_time_is_spelled_in_two_ways(server: SearchServer, index: Index) -> None:
    """Elasticsearch: `_pit`, answered with `id`. OpenSearch: `_search/point_in_time`, answered with `pit_id`."""
    is_elasticsearch = server.distribution.kind == "elasticsearch"
    path, member = ("_pit", "id") if is_elasticsearch else ("_search/point_in_time", "pit_id")
    index.write("a", 1)
    index.refresh()
    opened = server.request("POST", f"/{index.name}/{path}?keep_alive=1m")
    assert opened.status == 200
    index.write("b", 1)
    index.refresh()
    query = {"pit": {"id": opened.document[member], "keep_alive": "1m"}, "sort": [{"uid": "asc"}]}
    hits = server.request("POST", "/_search", query).document["hits"]["hits"]
    assert [hit["_id"] for hit in hits] == ["a"]


def test_what_was_answered_outlives_kill_9_but_a_real_delete_is_forgotten(server: SearchServer, index: Index) -> None:
    """Documents and their versions are there after a crash, since the translog is synced before the answer. The version
    of a real delete is not, once it has been flushed: `index.gc_deletes` promises nothing over a restart."""
    assert [index.write(uid, 5) for uid in ("a", "b", "c")] == [201, 201, 201]
    assert index.write("b", 6, hidden=True) == 200
    assert index.delete("c", 6) == 200
    assert server.request("POST", f"/{index.name}/_flush").status == 200
    assert index.write("d", 5) == 201
    server.kill()
    server.start()
    assert (index.write("a", 4), index.write("b", 5), index.write("d", 4)) == (409, 409, 409)
    assert index.found() == {"a", "d"}
    assert index.write("c", 5) == 201, "the delete was remembered: better than was thought"


def test_a_frozen_server_answers_when_it_is_thawed(server: SearchServer, index: Index) -> None:
    """Nothing comes while it is frozen; what was sent meanwhile is done afterwards, perhaps unheard."""
    server.freeze()
    try:
        with pytest.raises(TimeoutError):
            server.request("POST", f"/{index.alias}/_bulk", lines=document("a", 1), timeout_s=0.5)
    finally:
        server.thaw()
    end = time.monotonic() + 30
    while index.found() != {"a"}:
        assert time.monotonic() < end
