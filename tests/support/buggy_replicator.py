"""The replicator with a bug: `python -m tests.support.buggy_replicator BUG[,FAULT] replicate ...` patches classes, then
runs the product's command.

Each bug is one that a replicator of this kind could have. The rounds must find every one of them, or they prove nothing
of the replicator without it. FAULTS are not bugs: circumstances that a right one copes with and some bugs need to show.
Nothing of this is known to the product.
"""

import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.cli.main import main
from app.replication import search_bulk, search_index
from app.replication.elasticsearch import SearchSink
from app.replication.ports import Batch, Change, SinkUnavailable, Written
from app.replication.search_bulk import BulkWriter
from app.replication.search_client import Answer, SearchClient

_LONGEST_STALL_S = 0.6


def position_before_the_batch() -> None:
    """The position is written, and then what lies before it."""
    write = SearchSink.write

    def write_late(self: SearchSink, batch: Batch) -> Written:
        self._pending.update(batch.positions)
        self.flush()
        time.sleep(0.05)
        return write(self, batch)

    SearchSink.write = write_late  # type: ignore[method-assign]


def no_versions() -> None:
    """Whatever comes last wins, however old it is."""
    action = search_bulk._action

    def without(name: str, version: int, version_type: str) -> bytes:
        if version_type == "external":
            return b'{"index":{"_id":"%b"}}\n' % name.encode()
        return action(name, version, version_type)

    search_bulk._action = without


def real_deletes() -> None:
    """A delete deletes the document, and the server forgets its version at once (`index.gc_deletes`)."""
    item, request, body = search_bulk._item, SearchClient.request, search_index.index_body

    def delete(change: Change) -> Any:
        if change.body is not None:
            return item(change)
        line = search_bulk._action(change.uid, change.offset, "external").replace(b'"index"', b'"delete"', 1)
        return item(change)._replace(line=line)

    def request_and_rename(self: SearchClient, *arguments: Any, **options: Any) -> Answer:
        """The answer to a delete is told as that to a write; one that found nothing has done its work."""
        answer = request(self, *arguments, **options)
        if isinstance(answer.document, dict) and "items" in answer.document:
            for item in answer.document["items"]:
                if "delete" in item:
                    told = item.pop("delete")
                    item["index"] = {**told, "status": 200 if told["status"] == 404 else told["status"]}
        return answer

    def forgetful(*arguments: Any, **options: Any) -> dict[str, Any]:
        made = body(*arguments, **options)
        made["settings"]["index"]["gc_deletes"] = "0ms"
        return made

    search_bulk._item = delete
    SearchClient.request = request_and_rename  # type: ignore[method-assign]
    search_index.index_body = forgetful


def away_taken_as_done() -> None:
    """What could not be written is not written again, and the position goes on."""
    write = SearchSink.write

    def write_once(self: SearchSink, batch: Batch) -> Written:
        try:
            return write(self, batch)
        except SinkUnavailable as error:
            self._pending.update(batch.positions)
            return error.done

    SearchSink.write = write_once  # type: ignore[method-assign]


def deletes_left_out() -> None:
    """A delete is not written at all."""
    write = BulkWriter.write

    def without_deletes(self: BulkWriter, alias: str, changes: Sequence[Change]) -> search_bulk.Attempt:
        return write(self, alias, [change for change in changes if change.body is not None])

    BulkWriter.write = without_deletes  # type: ignore[method-assign]


def first_of_a_batch() -> None:
    """Of several changes of a profile in one batch the first is written, and not the last."""
    write = SearchSink.write

    def write_first(self: SearchSink, batch: Batch) -> Written:
        first = {change.uid: change for change in reversed(batch.changes)}
        return write(self, Batch(list(first.values()), batch.positions, batch.skipped))

    SearchSink.write = write_first  # type: ignore[method-assign]


def slow_write() -> None:
    """FAULT: each request is held back for a while, as by a network that stalls."""
    send = BulkWriter._send
    rng = random.Random(1)

    def stall(self: BulkWriter, alias: str, lines: Sequence[bytes]) -> Any:
        time.sleep(rng.uniform(0, _LONGEST_STALL_S))
        return send(self, alias, lines)

    BulkWriter._send = stall  # type: ignore[method-assign]


BUGS: Mapping[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        position_before_the_batch,
        no_versions,
        real_deletes,
        away_taken_as_done,
        deletes_left_out,
        first_of_a_batch,
        slow_write,
    )
}

if __name__ == "__main__":
    for bug in sys.argv[1].split(","):
        BUGS[bug]()
    sys.exit(main(sys.argv[2:]))
