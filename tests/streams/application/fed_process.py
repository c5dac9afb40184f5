"""A process that runs `counting` on the embedded log and feeds it, from wherever the input ended: arguments are the
directory, the number of records, and the time of the first. It ends when all is processed, if nobody kills it."""

import sys
import threading
from pathlib import Path

from streams.application.producing import Input
from streams.clock import Deadline
from streams.records import TopicPartition
from tests.streams.application.rig import embedded
from tests.support.streaming_topologies import INPUT, OUTPUTS, PARTITIONS, counting, inputs

PREFIX = "e-"
TOPICS = {PREFIX + INPUT: PARTITIONS, **{PREFIX + topic: number for topic, number in OUTPUTS.items()}}
SEED = 5
CHUNK = 40


def main(directory: Path, number: int, begin_ms: int) -> None:
    given = inputs(number, SEED, begin_ms)
    pause = threading.Event()
    with embedded(counting(PREFIX), directory, TOPICS, batch_records=100) as application:
        application.wait_ready(30)
        places = [TopicPartition(PREFIX + INPUT, p) for p in range(PARTITIONS)]
        ends = application.log.end_offsets(places, Deadline.after(5, application.clock))
        for start in range(sum(ends.values()), number, CHUNK):
            records = [Input(key.decode(), value.decode(), at_ms) for key, value, at_ms in given[start : start + CHUNK]]
            application.producer.send(PREFIX + INPUT, records)
            pause.wait(0.02)
        while any(application.lag().values()):
            pause.wait(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
