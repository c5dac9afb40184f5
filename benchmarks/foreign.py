"""A producer that is not the service: well-formed profiles, written to the topic at a fixed rate, without our headers.

python -m benchmarks.foreign BOOTSTRAP_SERVERS RECORDS_PER_S SECONDS
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kafka import KafkaProducer

from app.profiles import model
from app.profiles.email import normalise
from app.profiles.uids import random_id, text_of

_TOPIC = "profiles"
_TICK_S = 0.02


@contextmanager
def begin(bootstrap_servers: str, *, records_per_s: int, seconds: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Produce in the background while the block runs; killed at the block's end."""
    command = [sys.executable, "-m", "benchmarks.foreign", bootstrap_servers, str(records_per_s), str(seconds)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Produce what the command line asks for."""
    servers, records_per_s, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    producer = KafkaProducer(bootstrap_servers=servers.split(","), acks="all", linger_ms=5)
    start = time.monotonic()
    sent = 0
    while (elapsed := time.monotonic() - start) < seconds:
        while sent < elapsed * records_per_s:
            uid = text_of(random_id(os.urandom))
            content = model.NewProfile("Foreign", normalise(f"foreign-{uid[:13]}@example.com"))
            profile = model.created(uid, content, model.timestamp(time.time_ns() // 1_000_000))
            producer.send(_TOPIC, key=uid.encode(), value=profile.body)
            sent += 1
        time.sleep(_TICK_S)
    producer.close(timeout=5)


if __name__ == "__main__":
    main()
