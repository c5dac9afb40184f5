"""The metrics of a node: one catalogue, hot counters that cost about a microsecond, and gauges read when asked for.

`CATALOGUE` is the only list of names; docs/operations.md is checked against it. Requests are counted in plain dicts on
the event loop's thread; everything else is counted where it happens (`RuntimeMetrics`, `EdgeStats`, the log) and only
read here, by the thread that renders. Labels are route templates, topics, partitions and fixed words: never paths,
never anything of a user.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.server.limits import EdgeStats
from streams.cluster import ClusterView
from streams.errors import StreamsError
from streams.runtime.metrics import COMMIT_BUCKETS_S, HAND_OVER_BUCKETS_S, RuntimeMetrics
from streams.runtime.node import NodeHealth
from streams.runtime.states import TaskState

#: Upper bounds of the histogram of requests, in seconds.
REQUEST_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_ACTIVE = TaskState.ACTIVE.value
_WRITE_METHODS = {"POST", "PUT", "PATCH", "DELETE"}


class Entry(NamedTuple):
    """One metric. *kind* is counter, gauge or histogram; a counter's exported name ends in `_total`."""

    name: str
    kind: str
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()


CATALOGUE: tuple[Entry, ...] = (
    Entry(
        "http_request_duration_seconds",
        "histogram",
        "seconds",
        "Time from a request's head to its answer.",
        ("method", "route", "status"),
    ),
    Entry(
        "profile_writes",
        "counter",
        "requests",
        "Writes by outcome: written, refused (a client's error), not-written (503), unknown (504), failed (500).",
        ("method", "outcome"),
    ),
    Entry("commit_duration_seconds", "histogram", "seconds", "Time from a group's append to its rows being applied."),
    Entry("commit_commands", "counter", "commands", "Commands in the groups that were committed."),
    Entry("append_errors", "counter", "groups", "Groups whose append was not reported as written.", ("kind",)),
    Entry("records_applied", "counter", "records", "Records applied to the stores."),
    Entry("queued_commands", "gauge", "commands", "Writes that wait to be begun."),
    Entry("partitions_not_taken", "gauge", "partitions", "Owned partitions for which the log takes nothing for now."),
    Entry("lease_left_seconds", "gauge", "seconds", "Time for which ownership is certain; 1e9 where it never ends."),
    Entry("node_ready", "gauge", "0 or 1", "Whether the node takes all requests."),
    Entry("task_lag_records", "gauge", "records", "Records up to the end of the log last seen.", ("partition",)),
    Entry("task_restored_percent", "gauge", "percent", "How much of a restore is done.", ("partition",)),
    Entry("task_rebuilds", "counter", "rebuilds", "Stores that were wiped and rebuilt.", ("partition",)),
    Entry("rebalances", "counter", "rebalances", "Changes of ownership."),
    Entry("quarantined_records", "counter", "records", "Records that could not be processed.", ("topic", "reason")),
    Entry("store_size_bytes", "gauge", "bytes", "Disk that the stores take.", ("partition",)),
    Entry("log_gauge", "gauge", "see name", "Figures of the log: sizes in bytes, counts.", ("name",)),
    Entry(
        "hand_over_duration_seconds",
        "histogram",
        "seconds",
        "Time from being given a partition to serving it, by the node that got it.",
    ),
    Entry("partitions_held", "gauge", "partitions", "Partitions that the node owns, or follows.", ("role",)),
    Entry(
        "task_staleness_seconds",
        "gauge",
        "seconds",
        "For how long a copy that is not active may have missed something; 1e9 if it was never caught up.",
        ("partition",),
    ),
    Entry("cluster_epoch", "gauge", "generation", "The newest map of the cluster that the node knows; -1 before any."),
    Entry("cluster_nodes", "gauge", "nodes", "Members of the cluster in that map."),
    Entry("peers_suspected", "gauge", "nodes", "Other members that do not answer, or were never heard of."),
    Entry(
        "peer_requests",
        "counter",
        "requests",
        "Requests to other nodes: a client's (forward) or our own (call); answered, unreachable or lost.",
        ("kind", "outcome"),
    ),
    Entry("peer_refusals", "counter", "requests", "Requests of other nodes that were not let in.", ("reason",)),
    Entry(
        "claims_swept",
        "counter",
        "claims",
        "Claims of e-mails that the sweep has looked at, and asked about since they might hold no profile.",
        ("step",),
    ),
    Entry("feed_listeners", "gauge", "listeners", "Long polls and event streams of the change feed that are open."),
    Entry("feed_events", "counter", "results", "Results of the change feed that were sent."),
    Entry(
        "feed_catch_up_reads",
        "counter",
        "reads",
        "Reads of the log for the change feed, since what was asked for was not in memory.",
    ),
    Entry("feed_slow_listeners", "counter", "listeners", "Event streams that ended because their client did not read."),
    Entry("feed_ring_bytes", "gauge", "bytes", "Memory that the last changes take, for those who follow closely."),
    Entry("http_connections", "gauge", "connections", "Open connections."),
    Entry("http_connections_refused", "counter", "connections", "Connections over the limit, answered 503."),
    Entry("http_connections_evicted", "counter", "connections", "Silent connections closed in favour of new ones."),
    Entry("http_connection_timeouts", "counter", "connections", "Connections ended by a deadline.", ("phase",)),
    Entry("event_loop_lag_seconds", "gauge", "seconds", "How late the event loop ran when last looked at."),
    Entry("process_resident_memory_bytes", "gauge", "bytes", "Resident memory, of prometheus_client."),
)

_ENTRIES = {entry.name: entry for entry in CATALOGUE}


class NodeSource(Protocol):
    """What is read of a node, at each scrape."""

    @property
    def metrics(self) -> RuntimeMetrics: ...

    @property
    def view(self) -> ClusterView: ...

    def health(self) -> NodeHealth: ...


class PeersSource(Protocol):
    """What is read of the calls to other nodes (`streams.http.peers.HttpPeers`)."""

    outcomes: Counter[tuple[str, str]]

    def is_suspected(self, node_id: str) -> bool: ...


class GateSource(Protocol):
    """What is read of the calls of other nodes (`streams.http.gate.PeerGate`)."""

    refusals: Counter[str]


class SweepSource(Protocol):
    """What is read of the sweep (`app.profiles.sweep.Sweep`)."""

    looked_at: int
    asked: int


class FeedSource(Protocol):
    """What is read of the change feed (`app.feed.feed.Feed`)."""

    listeners: int
    events_sent: int
    slow_listeners: int

    @property
    def catch_up_reads(self) -> int: ...

    @property
    def ring_bytes(self) -> int: ...


class _Requests:
    """Counts of one (method, route, status)."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(REQUEST_BUCKETS_S) + 1)
        self.seconds = 0.0


class Metrics(Collector):
    """All metrics of the process. `observe_request` belongs to the event loop, `render` to any thread."""

    def __init__(
        self,
        *,
        node: NodeSource,
        log_gauges: Callable[[], Mapping[str, float]],
        store_sizes: Callable[[], Mapping[int, int]],
    ) -> None:
        """*log_gauges* returns the log's figures by name, *store_sizes* bytes by partition; both are called on the
        thread that renders, and may raise StreamsError."""
        self._node = node
        self._log_gauges = log_gauges
        self._store_sizes = store_sizes
        self._edge: EdgeStats | None = None
        self._cluster: tuple[str, PeersSource, GateSource] | None = None
        self._sweep: SweepSource | None = None
        self._feed: FeedSource | None = None
        self._requests: dict[tuple[str, str, int], _Requests] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def watch_edge(self, stats: EdgeStats | None) -> None:
        """Export the worker's connection counters, too; None where another server runs the application."""
        self._edge = stats

    def watch_peers(self, own_id: str, peers: PeersSource, gate: GateSource) -> None:
        """Export what happens between this node, *own_id*, and others, too; never called where there are none."""
        self._cluster = (own_id, peers, gate)

    def watch_sweep(self, sweep: SweepSource) -> None:
        """Export what the sweep has done, too."""
        self._sweep = sweep

    def watch_feed(self, feed: FeedSource) -> None:
        """Export what the change feed does, too."""
        self._feed = feed

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer. *route* is a template and *method* one of a fixed list, so that the labels are few."""
        counts = self._requests.get((method, route, status))
        if counts is None:
            counts = self._requests[method, route, status] = _Requests()
        counts.buckets[bisect_left(REQUEST_BUCKETS_S, seconds)] += 1
        counts.seconds += seconds

    def render(self) -> bytes:
        """Return everything in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry need not collect in order to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family of the catalogue but those of the process."""
        yield from self._collect_requests()
        yield from self._collect_runtime(self._node.metrics)
        yield from self._collect_health(self._node.health())
        yield from self._collect_storage()
        yield from self._collect_cluster(self._node.view)
        if self._feed is not None:
            yield from _collect_feed(self._feed)
        if self._edge is not None:
            yield from _collect_edge(self._edge)

    def _collect_requests(self) -> Iterator[Metric]:
        durations = _histogram("http_request_duration_seconds")
        writes: Counter[tuple[str, str]] = Counter()
        for (method, route, status), counts in tuple(self._requests.items()):
            buckets = tuple(counts.buckets)
            durations.add_metric(
                [method, route, str(status)], _cumulated(REQUEST_BUCKETS_S, buckets), sum_value=counts.seconds
            )
            if method in _WRITE_METHODS:
                writes[method, _outcome(status)] += sum(buckets)
        yield durations
        yield _counter("profile_writes", {labels: float(count) for labels, count in writes.items()})

    def _collect_runtime(self, runtime: RuntimeMetrics) -> Iterator[Metric]:
        commits = _histogram("commit_duration_seconds")
        buckets = tuple(runtime.commit_buckets)
        commits.add_metric([], _cumulated(COMMIT_BUCKETS_S, buckets), sum_value=runtime.commit_seconds)
        yield commits
        hand_overs = _histogram("hand_over_duration_seconds")
        buckets = tuple(runtime.hand_over_buckets)
        hand_overs.add_metric([], _cumulated(HAND_OVER_BUCKETS_S, buckets), sum_value=runtime.hand_over_seconds)
        yield hand_overs
        yield _counter("commit_commands", {(): runtime.commands})
        yield _counter("append_errors", {(kind,): count for kind, count in dict(runtime.append_errors).items()})
        yield _counter("records_applied", {(): runtime.records_applied})
        yield _counter("rebalances", {(): runtime.rebalances})
        yield _counter(
            "quarantined_records", {(topic, reason): n for (topic, reason), n in dict(runtime.poison).items()}
        )

    def _collect_health(self, health: NodeHealth) -> Iterator[Metric]:
        yield _gauge("queued_commands", {(): health.queued_commands})
        yield _gauge("partitions_not_taken", {(): health.ailing_partitions})
        yield _gauge("lease_left_seconds", {(): min(health.lease_left_s, 1e9)})
        yield _gauge("node_ready", {(): float(health.is_ready)})
        yield _gauge("task_lag_records", {(str(task.partition),): task.lag_records for task in health.tasks})
        yield _gauge("task_restored_percent", {(str(task.partition),): task.percent for task in health.tasks})
        yield _counter("task_rebuilds", {(str(task.partition),): task.rebuilds for task in health.tasks})
        yield _gauge(
            "task_staleness_seconds",
            {(str(task.partition),): min(task.staleness_s, 1e9) for task in health.tasks if task.state != _ACTIVE},
        )
        owned = sum(task.state in (_ACTIVE, TaskState.RESTORING.value) for task in health.tasks)
        yield _gauge("partitions_held", {("owned",): owned, ("followed",): len(health.tasks) - owned})

    def _collect_storage(self) -> Iterator[Metric]:
        try:
            sizes, gauges = self._store_sizes(), self._log_gauges()
        except StreamsError:
            return  # A task just left or the log is away: this scrape goes without, the next one has them.
        yield _gauge("store_size_bytes", {(str(partition),): size for partition, size in sizes.items()})
        yield _gauge("log_gauge", {(name,): value for name, value in gauges.items()})

    def _collect_cluster(self, view: ClusterView) -> Iterator[Metric]:
        yield _gauge("cluster_epoch", {(): view.epoch})
        yield _gauge("cluster_nodes", {(): len(view.nodes)})
        if self._cluster is not None:
            own_id, peers, gate = self._cluster
            suspected = sum(node_id != own_id and peers.is_suspected(node_id) for node_id in view.nodes)
            yield _gauge("peers_suspected", {(): suspected})
            yield _counter("peer_requests", {labels: float(count) for labels, count in dict(peers.outcomes).items()})
            yield _counter("peer_refusals", {(reason,): count for reason, count in dict(gate.refusals).items()})
        if self._sweep is not None:
            steps = {("looked-at",): self._sweep.looked_at, ("asked",): self._sweep.asked}
            yield _counter("claims_swept", {labels: float(count) for labels, count in steps.items()})


def _collect_feed(feed: FeedSource) -> Iterator[Metric]:
    yield _gauge("feed_listeners", {(): feed.listeners})
    yield _counter("feed_events", {(): feed.events_sent})
    yield _counter("feed_catch_up_reads", {(): feed.catch_up_reads})
    yield _counter("feed_slow_listeners", {(): feed.slow_listeners})
    yield _gauge("feed_ring_bytes", {(): feed.ring_bytes})


def _collect_edge(edge: EdgeStats) -> Iterator[Metric]:
    yield _gauge("http_connections", {(): edge.open_connections})
    yield _counter("http_connections_refused", {(): edge.refused_connections})
    yield _counter("http_connections_evicted", {(): edge.evicted_connections})
    yield _counter("http_connection_timeouts", {(phase,): count for phase, count in dict(edge.timeouts).items()})
    yield _gauge("event_loop_lag_seconds", {(): edge.loop_lag_s})


def _histogram(name: str) -> HistogramMetricFamily:
    entry = _ENTRIES[name]
    return HistogramMetricFamily(name, entry.meaning, labels=entry.labels)


def _counter(name: str, values: Mapping[tuple[str, ...], float]) -> Metric:
    entry = _ENTRIES[name]
    family = CounterMetricFamily(name, entry.meaning, labels=entry.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _gauge(name: str, values: Mapping[tuple[str, ...], float]) -> Metric:
    entry = _ENTRIES[name]
    family = GaugeMetricFamily(name, entry.meaning, labels=entry.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _cumulated(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return (upper bound, observations at or below it), as Prometheus' histograms count."""
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


def _outcome(status: int) -> str:
    if status < 300:
        return "written"
    if status < 500:
        return "refused"
    return {503: "not-written", 504: "unknown"}.get(status, "failed")
