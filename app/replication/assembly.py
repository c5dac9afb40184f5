"""Puts a source and the sharing of its partitions together for the settings in force. The sinks are chosen by the
command line (`app.cli.target`)."""

import uuid
from collections.abc import Callable, Sequence

from app.config import AppConfig
from app.profiles.topics import TopicNames
from app.replication.feed_source import FeedSource
from app.replication.log_source import LogSource
from app.replication.ports import Share, Source, SourceInfo
from streams.clock import Clock
from streams.log.kafka import KafkaLog, KafkaSettings
from streams.log.kafka.sharing import KafkaSharing


def open_source(config: AppConfig, *, name: str, urls: Sequence[str], clock: Clock) -> Source:
    """Return the source for the replicator *name*: Kafka, or with *urls* (or the embedded log) the change feed."""
    if urls or config.is_embedded:
        return FeedSource(urls or [config.local_url], clock)
    log = KafkaLog(_kafka(config, name), clock=clock)
    return LogSource(log, TopicNames.prefixed(config.topic_prefix).profiles, clock)


def sharing(config: AppConfig, *, name: str) -> Callable[[SourceInfo], Share]:
    """Return what divides the partitions among the replicators of that *name*."""
    topic = TopicNames.prefixed(config.topic_prefix).profiles
    return lambda _source: KafkaSharing(_kafka(config, name), topic)


def _kafka(config: AppConfig, name: str) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=",".join(config.bootstrap_servers),
        application_id=f"{config.application_id}-replicator-{name}",
        node_id=uuid.uuid4().hex[:8],
        session_timeout_ms=config.session_timeout_ms,
        client_overrides=config.kafka,
    )
