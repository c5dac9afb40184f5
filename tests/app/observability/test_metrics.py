"""The catalogue is what is exported, and counting is right."""

from collections import Counter
from dataclasses import replace
from math import inf

from prometheus_client.parser import text_string_to_metric_families

from app.observability.metrics import CATALOGUE, Metrics
from app.server.limits import EdgeStats
from streams.cluster import ClusterView, NodeInfo
from streams.errors import StoreClosed
from streams.runtime.metrics import RuntimeMetrics
from streams.runtime.node import NodeHealth, TaskHealth


class Node:
    """A node that stands still."""

    def __init__(self) -> None:
        self.metrics = RuntimeMetrics()
        self.view = ClusterView(7, {name: NodeInfo(name, "1", f"http://{name}:1") for name in "abc"}, ())

    def health(self) -> NodeHealth:
        task = TaskHealth(**dict.fromkeys(TaskHealth.__dataclass_fields__, 0))
        tasks = [
            replace(task, state="active"),
            replace(task, partition=1, state="restoring", staleness_s=inf),
            replace(task, partition=2, state="standby", staleness_s=0.25),
        ]
        values = dict.fromkeys(NodeHealth.__dataclass_fields__, 0) | {"tasks": tasks}
        return NodeHealth(**values)


class Peers:
    """The others, of whom c is silent."""

    def __init__(self) -> None:
        self.outcomes = Counter({("forward", "answered"): 3, ("call", "lost"): 1})

    def is_suspected(self, node_id: str) -> bool:
        return node_id != "b"


class Gate:
    """Has refused twice."""

    def __init__(self) -> None:
        self.refusals = Counter({"stale": 2})


class Feed:
    """Has one listener."""

    listeners = 1
    events_sent = 5
    slow_listeners = 0
    catch_up_reads = 2
    ring_bytes = 400


class Sweep:
    """Has been round."""

    looked_at = 50
    asked = 2


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def make(node: Node) -> Metrics:
    return Metrics(node=node, log_gauges=lambda: {"size_bytes": 7.0}, store_sizes=lambda: {0: 9})


def test_every_metric_of_the_catalogue_is_exported_with_its_kind_and_no_other_of_ours() -> None:
    """The documents list the catalogue, so the catalogue must be true."""
    metrics = make(Node())
    metrics.watch_edge(EdgeStats())
    metrics.watch_peers("a", Peers(), Gate())
    metrics.watch_feed(Feed())
    metrics.watch_sweep(Sweep())
    found = {family.name: family.type for family in text_string_to_metric_families(metrics.render().decode())}
    ours = {name: kind for name, kind in found.items() if not name.startswith("process_")}
    listed = {entry.name: entry.kind for entry in CATALOGUE if not entry.name.startswith("process_")}
    assert ours == listed
    assert "process_resident_memory_bytes" in found


def test_requests_are_counted_by_template_and_writes_by_outcome() -> None:
    """A 503 to a write is "not written", a 504 "unknown", a 404 a refusal."""
    metrics = make(Node())
    for status, seconds in ((201, 0.0004), (201, 0.3), (503, 0.1), (504, 20.0), (409, 0.001)):
        metrics.observe_request("POST", "/api/profile", status, seconds)
    metrics.observe_request("GET", "/api/profile/{uid}", 404, 0.001)
    found = samples(metrics)
    labels = (("method", "POST"), ("route", "/api/profile"), ("status", "201"))
    assert found["http_request_duration_seconds_count", labels] == 2
    assert found["http_request_duration_seconds_sum", labels] == 0.3004
    assert found["http_request_duration_seconds_bucket", (("le", "0.0005"), *labels)] == 1
    assert found["http_request_duration_seconds_bucket", (("le", "+Inf"), *labels)] == 2
    outcomes = {labels[1][1]: value for (name, labels), value in found.items() if name == "profile_writes_total"}
    assert outcomes == {"written": 2, "not-written": 1, "unknown": 1, "refused": 1}


def test_the_cluster_is_counted_from_this_node_s_side() -> None:
    """Itself it does not suspect; a copy that was never caught up has a number, too; hand-overs have their times."""
    node = Node()
    metrics = make(node)
    metrics.watch_peers("a", Peers(), Gate())
    metrics.watch_sweep(Sweep())
    for seconds in (0.08, 0.08, 400.0):
        node.metrics.handed_over(seconds)
    found = samples(metrics)
    assert found["cluster_epoch", ()] == 7
    assert found["cluster_nodes", ()] == 3
    assert found["peers_suspected", ()] == 1
    assert found["peer_requests_total", (("kind", "forward"), ("outcome", "answered"))] == 3
    assert found["peer_refusals_total", (("reason", "stale"),)] == 2
    assert found["claims_swept_total", (("step", "asked"),)] == 2
    assert found["partitions_held", (("role", "owned"),)] == 2
    assert found["partitions_held", (("role", "followed"),)] == 1
    staleness = {labels: value for (name, labels), value in found.items() if name == "task_staleness_seconds"}
    assert staleness == {(("partition", "1"),): 1e9, (("partition", "2"),): 0.25}
    assert found["hand_over_duration_seconds_bucket", (("le", "0.1"),)] == 2
    assert found["hand_over_duration_seconds_bucket", (("le", "300.0"),)] == 2
    assert found["hand_over_duration_seconds_count", ()] == 3


def test_a_store_that_closes_under_a_scrape_leaves_the_rest() -> None:
    """A moving partition must not make a node invisible."""

    def closed() -> dict[int, int]:
        raise StoreClosed("gone")

    metrics = Metrics(node=Node(), log_gauges=dict, store_sizes=closed)
    assert ("node_ready", ()) in samples(metrics)
