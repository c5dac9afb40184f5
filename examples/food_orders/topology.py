"""What is computed: orders meet the names of their customers, and are counted for each of them."""

import logging
from typing import NamedTuple

from streams.dsl import StreamsBuilder
from streams.topology.subtopology import ProcessorTopology

CUSTOMER_TOPIC, ORDER_TOPIC = "customer", "order"
CUSTOMERS, ORDER_COUNT = "customer-v1-changelog", "order-count"
UNKNOWN = "UNKNOWN"

logger = logging.getLogger(__name__)


class NamedOrder(NamedTuple):
    """An order with the name of its customer."""

    customer: str
    food: str


def food_orders() -> ProcessorTopology:
    """Return the topology. Nothing has to be repartitioned: both topics have the customer's number as key."""
    builder = StreamsBuilder("food-server")
    customers = builder.table(CUSTOMER_TOPIC, key=str, value=str, store=CUSTOMERS)
    orders = builder.stream(ORDER_TOPIC, key=str, value=str)
    named = orders.left_join(customers, name_order).peek(tell)
    named.group_by_key().count(store=ORDER_COUNT)
    return builder.build()


def name_order(food: str | None, customer: str | None) -> NamedOrder:
    """Return the order of *food*; who or what is not known is called so."""
    return NamedOrder(UNKNOWN if customer is None else customer, UNKNOWN if food is None else food)


def tell(number: str, order: NamedOrder) -> None:
    """Log the *order* of the customer with that *number*."""
    logger.info("customer %r, %s, ordered %s", number, order.customer, order.food)
