"""Instances of an application as processes on a real Kafka: started, killed, started again; and what they must write.

Any topology with `python -m streams run` can be driven so. `Instance` is one process with a data directory of its own;
`Reader` collects the committed records of topics. Invariants: every wait is bounded, and every process ends with the
test that started it.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from streams.clock import Deadline, SystemClock
from streams.log.base import TopicSpec
from streams.log.kafka import KafkaLog, KafkaSettings
from streams.partitioner import partition_for
from streams.records import ProducerRecord, Record, TopicPartition

ROOT = Path(__file__).resolve().parents[2]
CLOCK = SystemClock()
START_S, STOP_S, WAIT_S = 40.0, 20.0, 60.0


class Instance:
    """One process of an application."""

    def __init__(self, topology: str, directory: Path, environment: Mapping[str, str]) -> None:
        """*topology*: `module:name`. *environment*: settings, with `STREAMS_BOOTSTRAP_SERVERS` among them on Kafka."""
        self._arguments = [sys.executable, "-m", "streams", "run", topology, "--data-dir", str(directory / "data")]
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        self._output = directory / "output"
        directory.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> "Instance":
        """Start; returns when the process says that it runs."""
        assert not self.is_running
        seen = self.output().count("running ")
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._arguments, env=self._environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )
        end_at = time.monotonic() + START_S
        while self.output().count("running ") == seen:
            if self._process.poll() is not None or time.monotonic() > end_at:
                self.kill()
                raise AssertionError(f"the instance does not run:\n{self.output()[-4000:]}")
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        """Kill it at once (SIGKILL). Harmless when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_S)

    def cpu_s(self) -> float:
        """Return the processor time that the process has taken, in seconds."""
        assert self._process is not None
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it in order, with the signal *number*, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the instance does not stop:\n{self.output()[-4000:]}") from None

    def output(self) -> str:
        """Return what it has printed."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""


class Client:
    """Feeds topics and reads them, beside the application."""

    def __init__(self, bootstrap_servers: str, name: str) -> None:
        self._log = KafkaLog(KafkaSettings(bootstrap_servers=bootstrap_servers, application_id=name, node_id="client"))
        self._producer = self._log.open_producer()

    def create(self, topics: Mapping[str, int]) -> None:
        """Make *topics*, with so many partitions each."""
        specs = [TopicSpec(name, {"cleanup.policy": "delete"}, number) for name, number in topics.items()]
        self._log.ensure_topics(specs, Deadline.after(WAIT_S, CLOCK))

    def feed(self, topic: str, partitions: int, records: Iterable[tuple[bytes, bytes, int]]) -> None:
        """Send (key, value, timestamp); durable when it returns."""
        made = [
            ProducerRecord(topic, partition_for(key, partitions), key, value, (), at_ms)
            for key, value, at_ms in records
        ]
        self._producer.produce(made, Deadline.after(WAIT_S, CLOCK))

    def read(self, topics: Mapping[str, int], counts: Mapping[str, int], timeout_s: float) -> dict[str, list[Record]]:
        """Return the committed records of *topics* (with their numbers of partitions) once there are as many as
        *counts* says of each, and whatever comes within two seconds after that."""
        reader = self._log.open_reader()
        found: dict[str, list[Record]] = {topic: [] for topic in topics}
        reader.assign({TopicPartition(topic, p): 0 for topic, number in topics.items() for p in range(number)})
        give_up_at, end_at = time.monotonic() + timeout_s, float("inf")
        try:
            while time.monotonic() < end_at:
                for batch in reader.poll(0.2):
                    found[batch.topic] += batch.records
                if end_at == float("inf") and all(len(found[topic]) >= number for topic, number in counts.items()):
                    end_at = time.monotonic() + 2.0
                if time.monotonic() > give_up_at:
                    there = {topic: len(records) for topic, records in found.items()}
                    raise AssertionError(f"there are {there}, and not {dict(counts)}")
        finally:
            reader.close()
        return found

    def close(self) -> None:
        self._log.close()


class Feeder:
    """Feeds in the background, evenly over some time."""

    def __init__(
        self, client: Client, topic: str, partitions: int, records: Sequence[tuple[bytes, bytes, int]], seconds: float
    ) -> None:
        self._client = client
        self._topic = topic
        self._partitions = partitions
        self._records = records
        self._seconds = seconds
        self._error: BaseException | None = None
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def start(self) -> "Feeder":
        self._thread.start()
        return self

    def join(self) -> None:
        """Return when all is fed."""
        self._thread.join(self._seconds + WAIT_S)
        assert not self._thread.is_alive(), "feeding takes too long"
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        self._is_stopping.set()
        self._thread.join(WAIT_S)

    def wait(self, seconds: float) -> None:
        """Return after *seconds*, or when feeding has failed."""
        if self._is_stopping.wait(seconds) and self._error is not None:
            raise self._error

    def _run(self) -> None:
        begun_at, done, total = time.monotonic(), 0, len(self._records)
        try:
            while done < total and not self._is_stopping.is_set():
                due = min(total, round(total * (time.monotonic() - begun_at + 0.05) / self._seconds))
                if due > done:
                    self._client.feed(self._topic, self._partitions, self._records[done:due])
                    done = due
                time.sleep(0.05)
        except BaseException as error:  # it belongs to whoever joins
            self._error = error
            self._is_stopping.set()
