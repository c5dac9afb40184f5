"""Puts the parts together: the topology, queries of its stores, the routes; for those who count, and for observers."""

import asyncio
from collections.abc import Sequence
from random import SystemRandom
from typing import Any

import falcon.asgi

from examples import serving
from examples.answering import mount_errors
from examples.word_count.routes import Line, ProducerRoutes, StateRoutes
from examples.word_count.topology import LINES_TOPIC, OUTPUT_TOPIC, observer, word_count
from streams.application import StreamsApplication
from streams.application.producing import Input
from streams.http.interactive import InteractiveQueries

#: Made when they are missing, with as many partitions.
TOPICS = {LINES_TOPIC: 4, OUTPUT_TOPIC: 4}
OBSERVED_TOPICS = {OUTPUT_TOPIC: 4}


def create_app() -> falcon.asgi.App[Any, Any]:
    """Return one of those who count, as the process' environment describes it; it starts and stops with its server."""
    return serving.create_app(word_count(), mount)


def create_observer() -> falcon.asgi.App[Any, Any]:
    """Return one observer, likewise."""
    return serving.create_app(observer(), mount_observer)


def mount(app: falcon.asgi.App[Any, Any], application: StreamsApplication, queries: InteractiveQueries) -> None:
    """Have *app* answer the routes of the tutorial."""

    async def send(lines: Sequence[Line]) -> None:
        records = [Input(None, line.text, line.timestamp_ms) for line in lines]
        await asyncio.to_thread(application.producer.send, LINES_TOPIC, records)

    mount_observer(app, application, queries)
    ProducerRoutes(send, random=SystemRandom(), now_ms=application.clock.time_ms).mount(app)


def mount_observer(
    app: falcon.asgi.App[Any, Any], application: StreamsApplication, queries: InteractiveQueries
) -> None:
    """Have *app* answer the routes that only ask."""
    StateRoutes(queries.stores, address=application.settings.address or "http://nowhere").mount(app)
    mount_errors(app)
