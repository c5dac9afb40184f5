"""Puts the parts together: topics, queries of the stores, routes; of those who count, and of observers."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import falcon.asgi

from examples.word_count.routes import Line, ProducerRoutes, StateRoutes, mount_errors
from examples.word_count.topology import LINES_TOPIC, OUTPUT_TOPIC
from streams.application import StreamsApplication
from streams.application.producing import Input
from streams.http.interactive import InteractiveQueries

#: Made when they are missing, with as many partitions.
TOPICS = {LINES_TOPIC: 4, OUTPUT_TOPIC: 4}
#: What observers read as a table, and so make compacted if they are the first.
OBSERVED_TOPICS = {OUTPUT_TOPIC: 4}


def mount(app: falcon.asgi.App[Any, Any], application: StreamsApplication, queries: InteractiveQueries) -> None:
    """Have *app* answer the routes of the tutorial."""

    async def send(lines: Sequence[Line]) -> None:
        records = [Input(None, line.text, line.timestamp_ms) for line in lines]
        await asyncio.to_thread(application.producer.send, LINES_TOPIC, records)

    mount_observer(app, application, queries)
    ProducerRoutes(send, random=Random(), now_ms=application.clock.time_ms).mount(app)


def mount_observer(
    app: falcon.asgi.App[Any, Any], application: StreamsApplication, queries: InteractiveQueries
) -> None:
    """Have *app* answer the routes that only ask."""
    StateRoutes(queries.stores, address=application.settings.address or "http://nowhere").mount(app)
    mount_errors(app)
