"""What a terminal and a scraper are told of a replicator."""

import urllib.request

import pytest

from app.cli.progress import ProgressBar
from app.observability.replication import ReplicationMetrics
from app.replication.ports import Refused, Written
from app.replication.progress import Progress
from streams.errors import ConfigError
from tests.support.broker import free_ports


def progress() -> Progress:
    found = Progress(lag={0: 30, 1: 20}, waits_for="the server is away")
    found.note_written(Written(40, 9, [Refused("uid", 1, "reason")]))
    found.note_batch(50, 0.02)
    return found


def test_the_bar_shows_percent_lag_and_what_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    """50 of 100 are done."""
    with ProgressBar("search", progress()):
        pass
    text = capsys.readouterr().err
    for part in ("search:  50%", "50.0/100", "lag 50", "1 refused", "waits: the server is away"):
        assert part in text


def test_the_metrics_are_served() -> None:
    """On a port of their own, until the end."""
    (port,) = free_ports(1)
    metrics = ReplicationMetrics("search", progress())
    with metrics.served(port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        with pytest.raises(ConfigError), metrics.served(port):
            pass
    for line in (
        'replication_changes_total{name="search"} 50.0',
        'replication_outcomes_total{name="search",outcome="refused"} 1.0',
        'replication_lag_records{name="search",partition="1"} 20.0',
        'replication_waiting{name="search"} 1.0',
        'replication_batch_seconds_bucket{le="0.025",name="search"} 1.0',
        'replication_batch_seconds_count{name="search"} 1.0',
    ):
        assert line in text
