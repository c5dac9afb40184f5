"""One of the tasks of the race, on Quix Streams: `python quix_app.py TASK BROKERS GUARANTEE STATE_DIRECTORY OUT`.

Runs until it is killed. Reads `in` (and `table` for the join), writes the topic OUT. It is run by a Python of its own,
which has Quix Streams and nothing of ours.
"""

import sys
import uuid
from datetime import timedelta

from quixstreams import Application

COMMIT_INTERVAL_S = 0.5


def counted(_value, state):
    """Return the number of records of its key so far."""
    count = state.get("count", 0) + 1
    state.set("count", count)
    return {"count": count}


def main() -> None:
    """Run the task that the command line names."""
    task, brokers, guarantee, state, out = sys.argv[1:6]
    app = Application(
        broker_address=brokers,
        consumer_group=f"quix-{task}-{uuid.uuid4().hex[:6]}",
        auto_offset_reset="earliest",
        processing_guarantee=guarantee,
        commit_interval=COMMIT_INTERVAL_S,
        state_dir=state,
        loglevel="WARNING",
    )
    read = app.topic("in", key_deserializer="str", value_deserializer="json")
    written = app.topic(out, key_serializer="str", value_serializer="json")
    stream = app.dataframe(read)
    if task == "map":
        stream = stream.apply(lambda value: {"host": value["host"], "kilobytes": value["bytes"] / 1024})
    elif task == "count":
        stream = stream.apply(counted, stateful=True)
    elif task == "windows":
        stream = stream.tumbling_window(timedelta(minutes=1)).count().current()
    else:
        table = app.dataframe(app.topic("table", key_deserializer="str", value_deserializer="json"))
        stream = stream.join_asof(table, how="left", on_merge=lambda left, right: {"left": left, "right": right})
    stream.to_topic(written)
    app.run()


if __name__ == "__main__":
    main()
