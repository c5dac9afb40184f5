"""The metrics of a replicator: its catalogue, and a small server for them. docs/replication.md lists the same.

Everything is counted where it happens (`app.replication.progress`) and only read here, by the thread that renders.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.observability.metrics import Entry
from app.replication.progress import LATENCY_BOUNDS_S, Progress
from streams.errors import ConfigError

CATALOGUE: tuple[Entry, ...] = (
    Entry("replication_changes", "counter", "changes", "Changes that are settled in the sink.", ("name",)),
    Entry(
        "replication_outcomes",
        "counter",
        "changes",
        "What became of them: applied, stale (known there already), refused (set aside), skipped (no profile).",
        ("name", "outcome"),
    ),
    Entry("replication_lag_records", "gauge", "records", "Records that follow in the log.", ("name", "partition")),
    Entry("replication_retries", "counter", "attempts", "Attempts that failed and were repeated.", ("name",)),
    Entry("replication_waiting", "gauge", "0 or 1", "Whether the sink or the source is waited for.", ("name",)),
    Entry("replication_batch_seconds", "histogram", "seconds", "Time that a batch took, retries included.", ("name",)),
)


class ReplicationMetrics(Collector):
    """All metrics of one replicator. Rendered by any thread."""

    def __init__(self, name: str, progress: Progress) -> None:
        self._name = name
        self._progress = progress
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    @contextmanager
    def served(self, port: int) -> Iterator[None]:
        """Serve them at `/metrics` on 127.0.0.1 meanwhile. Raises ConfigError when the port is taken."""
        try:
            server, thread = start_http_server(port, "127.0.0.1", self._registry)
        except OSError as error:
            raise ConfigError(f"the port {port} for metrics cannot be used: {error.strerror}") from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def describe(self) -> Iterator[Metric]:
        """Return nothing: the registry need not collect in order to learn the names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield every family of the catalogue."""
        one, name = self._progress, self._name
        yield _counter("replication_changes", {(name,): one.changes})
        outcomes = {"applied": one.applied, "stale": one.stale, "refused": one.refused, "skipped": one.skipped}
        yield _counter("replication_outcomes", {(name, outcome): count for outcome, count in outcomes.items()})
        yield _gauge("replication_lag_records", {(name, str(number)): lag for number, lag in one.lag.items()})
        yield _counter("replication_retries", {(name,): one.retries})
        yield _gauge("replication_waiting", {(name,): int(one.waits_for is not None)})
        entry = _ENTRIES["replication_batch_seconds"]
        family = HistogramMetricFamily(entry.name, entry.meaning, labels=entry.labels)
        total, buckets = 0, []
        for bound, count in zip([*map(str, LATENCY_BOUNDS_S), "+Inf"], tuple(one.batch_buckets), strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric([name], buckets, sum_value=one.batch_seconds)
        yield family


_ENTRIES = {entry.name: entry for entry in CATALOGUE}


def _counter(name: str, values: dict[tuple[str, ...], int]) -> Metric:
    entry = _ENTRIES[name]
    family = CounterMetricFamily(name, entry.meaning, labels=entry.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _gauge(name: str, values: dict[tuple[str, ...], int]) -> Metric:
    entry = _ENTRIES[name]
    family = GaugeMetricFamily(name, entry.meaning, labels=entry.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
