"""The other side of the comparison: `python -m benchmarks.bulk_helper URL INDEX DOCUMENTS` writes a file of profiles
with the helper of Elasticsearch's own client, and prints how long that took."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elasticsearch import Elasticsearch
from elasticsearch.helpers import parallel_bulk

_CHUNK = 1_000  # documents of a request; the default is 500


def main() -> None:
    """Write all documents, each under its uid."""
    url, index, path = sys.argv[1:]
    documents: list[dict[str, Any]] = [json.loads(line) for line in Path(path).read_bytes().splitlines()]

    def actions() -> Iterator[dict[str, Any]]:
        for number, document in enumerate(documents):
            version = {"version": number, "version_type": "external"}
            yield {"_index": index, "_id": document["uid"], **version, "_source": document}

    with Elasticsearch(url, request_timeout=120) as client:
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        written = sum(is_ok for is_ok, _ in parallel_bulk(client, actions(), chunk_size=_CHUNK))
        seconds, cpu_seconds = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
    assert written == len(documents)
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}) + "\n")


if __name__ == "__main__":
    main()
