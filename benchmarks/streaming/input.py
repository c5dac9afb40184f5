"""The records of the race: requests of some thousand hosts, and a row for each host, the same for every contestant."""

import json
import random
import time

from kafka import KafkaProducer

STEP_MS = 10  # so that a minute holds six thousand records


def first_ms(records: int) -> int:
    """Return the time of the first of *records*: the last is now, so that no log has reason to remove any."""
    return time.time_ns() // 1_000_000 - STEP_MS * records


def produce(bootstrap_servers: str, *, records: int, keys: int) -> None:
    """Write *records* to `in`, with times in order, and a row for each of *keys* hosts to `table`."""
    rng = random.Random(1)
    begin_ms = first_ms(records)
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, linger_ms=20, batch_size=256 * 1024, acks=1)
    for key in range(keys):
        row = json.dumps({"country": f"c{key % 200}"}).encode()
        producer.send("table", key=f"host{key}".encode(), value=row, timestamp_ms=begin_ms - 1000)
    for number in range(records):
        host = f"host{rng.randrange(keys)}"
        value = json.dumps({"host": host, "path": f"/page/{rng.randrange(1000)}", "bytes": rng.randrange(1, 50_000)})
        producer.send("in", key=host.encode(), value=value.encode(), timestamp_ms=begin_ms + STEP_MS * number)
    producer.flush(120)
    producer.close()
