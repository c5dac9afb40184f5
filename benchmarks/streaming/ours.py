"""One of the tasks of the race, on `streams`: `python -m benchmarks.streaming.ours TASK BROKERS GUARANTEE STATE OUT`.

Runs until it is killed. Reads `in` (and `table` for the join), writes the topic OUT. Without BROKERS (`-`): on the
embedded log in STATE, where it makes and fills its input itself.
"""

import sys
import time
import uuid
from pathlib import Path
from typing import Any

from streams.application import StreamsApplication, StreamsSettings
from streams.dsl import StreamsBuilder, tumbling
from streams.serdes import JSON
from streams.topology.subtopology import ProcessorTopology


def topology(task: str, out: str) -> ProcessorTopology:
    """Return the topology of *task*."""
    builder = StreamsBuilder(f"ours-{task}-{uuid.uuid4().hex[:6]}")
    read = builder.stream("in", key=str, value=JSON)
    if task == "map":
        stream: Any = read.map_values(lambda value: {"host": value["host"], "kilobytes": float(value["bytes"]) / 1024})
    elif task == "count":
        stream = read.group_by_key().count(store="counts").to_stream().map_values(lambda count: {"count": count})
    elif task == "windows":
        counts = read.group_by_key().windowed_by(tumbling(60_000)).count(store="windows", retention_ms=3_600_000)
        stream = counts.to_stream().map(lambda key, count: (key.key, {"count": count}))
    else:
        table = builder.table("table", key=str, value=JSON, store="rows")
        stream = read.left_join(table, lambda left, right: {"left": left, "right": right})
    stream.to(out, key=str, value=JSON)
    return builder.build()


def main() -> None:
    """Run the task that the command line names."""
    task, brokers, guarantee, state, out = sys.argv[1:6]
    settings = StreamsSettings(
        bootstrap_servers=brokers,
        data_dir=Path(state),
        processing_guarantee={"exactly-once": "exactly_once_v2", "at-least-once": "at_least_once"}[guarantee],
    )
    with StreamsApplication(topology(task, out), settings) as application:
        while not application.failed.wait(1.0):
            failed = application.health().failed
            if failed:
                print(failed, flush=True)
                time.sleep(5)


if __name__ == "__main__":
    main()
