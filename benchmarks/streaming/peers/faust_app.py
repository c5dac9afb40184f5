"""One of the tasks of the race, on Faust: `python faust_app.py TASK BROKERS GUARANTEE STATE_DIRECTORY OUT`.

Runs until it is killed. Reads `in` (and `table` for the join), writes the topic OUT. It is run by a Python of its own,
which has Faust and nothing of ours.
"""

import sys
import uuid
from datetime import timedelta

import faust

COMMIT_INTERVAL_S = 0.5
PARTITIONS = 4


def application(task: str, brokers: str, guarantee: str, state: str, out: str) -> faust.App:
    """Return the application of *task*."""
    app = faust.App(
        f"faust-{task}-{uuid.uuid4().hex[:6]}",
        broker=f"kafka://{brokers}",
        store="rocksdb://?driver=rocksdict",
        datadir=state,
        topic_partitions=PARTITIONS,
        processing_guarantee=guarantee.replace("-", "_"),
        broker_commit_interval=COMMIT_INTERVAL_S,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        web_enabled=False,
        topic_disable_leader=True,
    )
    read = app.topic("in", key_type=str, key_serializer="raw", value_serializer="json")
    written = app.topic(out, key_type=str, key_serializer="raw", value_serializer="json")
    if task == "map":

        @app.agent(read)
        async def convert(stream):
            async for key, value in stream.items():
                await written.send(key=key, value={"host": value["host"], "kilobytes": value["bytes"] / 1024})

    elif task == "count":
        counts = app.Table("counts", default=int, partitions=PARTITIONS, key_type=str)

        @app.agent(read)
        async def count(stream):
            async for key, _ in stream.items():  # noqa: PERF102  # a stream has no keys()
                counts[key] += 1
                await written.send(key=key, value={"count": counts[key]})

    elif task == "windows":
        windows = app.Table("windows", default=int, partitions=PARTITIONS, key_type=str).tumbling(timedelta(minutes=1))

        @app.agent(read)
        async def count_windows(stream):
            async for key, _ in stream.items():  # noqa: PERF102  # a stream has no keys()
                windows[key] += 1
                await written.send(key=key, value={"count": windows[key].current()})

    else:
        rows = app.topic("table", key_type=str, key_serializer="raw", value_serializer="json")
        table = app.Table("rows", partitions=PARTITIONS, key_type=str)

        @app.agent(rows)
        async def fill(stream):
            async for key, value in stream.items():
                table[key] = value

        @app.agent(read)
        async def join(stream):
            async for key, value in stream.items():
                await written.send(key=key, value={"left": value, "right": table.get(key)})

    return app


def main() -> None:
    """Run the task that the command line names."""
    app = application(*sys.argv[1:6])
    sys.argv[1:] = ["worker", "-l", "warn", "--without-web"]
    app.main()


if __name__ == "__main__":
    main()
