"""Puts the parts of one instance together, and gives its routes the topics: to send to, and to read."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

import falcon.asgi

from examples import serving
from examples.purchases.routes import Pair, TopicRoutes
from examples.purchases.topology import PURCHASES, VERSIONS, WAIT_MS, Version, enriched
from streams.application import StreamsApplication
from streams.application.producing import Input
from streams.clock import Deadline
from streams.errors import ConfigError, LogUnavailable
from streams.records import TopicPartition

MAX_VALUES = 10_000
MAX_WAIT_MS = 9_999_999_999
_TIMEOUT_S = 10.0
_POLL_S = 0.2


def partitions(version: Version) -> dict[str, int]:
    """Return the topics that are made when they are missing, with as many partitions; the table's is compacted."""
    return dict.fromkeys((version.events, version.table, version.output), 8)


def version_from_env(environment: Mapping[str, str]) -> Version:
    """Return the version that `PURCHASES_VERSION` names. Raises ConfigError."""
    name = environment.get("PURCHASES_VERSION") or PURCHASES.events
    if name not in VERSIONS:
        raise ConfigError(f"there are the versions {' and '.join(VERSIONS)}, not {name!r}")
    return VERSIONS[name]


def wait_ms_from_env(environment: Mapping[str, str]) -> int:
    """Return `PURCHASES_WAIT_MS`. Raises ConfigError."""
    return serving.number_of(environment, "PURCHASES_WAIT_MS", WAIT_MS, greatest=MAX_WAIT_MS)


def create_app() -> falcon.asgi.App[Any, Any]:
    """Return the ASGI application of one instance, as the environment says. Raises ConfigError."""
    version = version_from_env(os.environ)
    topology = enriched(version, wait_ms_from_env(os.environ))
    return serving.create_app(topology, lambda app, application, _: mount(app, application, version))


def mount(app: falcon.asgi.App[Any, Any], application: StreamsApplication, version: Version) -> None:
    """Have *app* answer the routes of *version*."""
    topics = Topics(application)
    settings = application.settings
    quarantine = settings.quarantine_topic or f"{application.application_id}-quarantine"
    TopicRoutes(version, quarantine=quarantine, send=topics.send, read=topics.read).mount(app)


class Topics:
    """Topics of a log on which an application runs. Any event loop: what blocks is done on a thread."""

    def __init__(self, application: StreamsApplication) -> None:
        """*application*: started before the server says so."""
        self._application = application

    async def send(self, topic: str, pairs: Sequence[Pair]) -> None:
        """Append *pairs* as they are, also what nobody will be able to read. Durable when it returns; raises
        StreamsError."""
        records = [Input(pair.key, pair.value) for pair in pairs]
        await asyncio.to_thread(self._application.producer.send, topic, records, key=bytes, value=bytes)

    async def read(self, topic: str) -> Sequence[bytes]:
        """Return the committed values of *topic* from its beginning, partition by partition, `MAX_VALUES` at most.
        Raises LogUnavailable."""
        return await asyncio.to_thread(self._read, topic)

    def _read(self, topic: str) -> list[bytes]:
        log, clock = self._application.log, self._application.clock
        deadline = Deadline.after(_TIMEOUT_S, clock)
        partitions = log.describe_topics([topic], deadline)[topic].partitions
        ends = log.end_offsets([TopicPartition(topic, number) for number in range(partitions)], deadline)
        left = {place for place, end in ends.items() if end > 0}
        found: dict[TopicPartition, list[bytes]] = {place: [] for place in sorted(left)}
        reader = log.open_reader()
        try:
            reader.assign(dict.fromkeys(left, 0))
            while left and sum(map(len, found.values())) < MAX_VALUES:
                if deadline.has_passed(clock):
                    raise LogUnavailable(f"{topic} could not be read in time")
                for batch in reader.poll(_POLL_S):
                    place = TopicPartition(batch.topic, batch.partition)
                    found[place] += [record.value for record in batch.records if record.value is not None]
                    if batch.next_offset >= ends[place]:
                        left.discard(place)
        finally:
            reader.close()
        return [value for values in found.values() for value in values][:MAX_VALUES]
