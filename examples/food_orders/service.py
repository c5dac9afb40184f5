"""Puts the parts together: the topology, queries of its stores, the routes."""

import asyncio
from collections.abc import Sequence
from typing import Any

import falcon.asgi

from examples import serving
from examples.food_orders.routes import FoodRoutes, Pair
from examples.food_orders.topology import CUSTOMER_TOPIC, ORDER_TOPIC, food_orders
from streams.application import StreamsApplication
from streams.application.producing import Input
from streams.http.interactive import InteractiveQueries

#: Made when they are missing, with as many partitions. That of the customers, which is read as a table, is compacted.
TOPICS = {CUSTOMER_TOPIC: 3, ORDER_TOPIC: 3}


def create_app() -> falcon.asgi.App[Any, Any]:
    """Return the ASGI application that the process' environment describes; it starts and stops with its server."""
    return serving.create_app(food_orders(), mount)


def mount(app: falcon.asgi.App[Any, Any], application: StreamsApplication, queries: InteractiveQueries) -> None:
    """Have *app* answer the routes of the tutorial."""

    async def send(topic: str, pairs: Sequence[Pair]) -> None:
        records = [Input(pair.key, pair.value) for pair in pairs]
        await asyncio.to_thread(application.producer.send, topic, records)

    FoodRoutes(queries.stores, send=send).mount(app)
