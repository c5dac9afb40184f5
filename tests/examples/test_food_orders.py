"""The food server: what it computes, tried without a log."""

from pathlib import Path

from examples.food_orders.topology import CUSTOMERS, ORDER_COUNT, NamedOrder, food_orders, name_order
from streams.testing import TopologyTestDriver

DATA = Path(__file__).parents[2] / "examples" / "food_orders" / "data"
PARTITIONS = 3


def pipe(driver: TopologyTestDriver, topic: str, file: str) -> None:
    for line in (DATA / file).read_text().splitlines():
        key, value = line.split("--", 1)
        driver.pipe_input(topic, key, value)


def test_customers_and_orders_lie_where_the_tutorial_shows_them() -> None:
    """Names by partition and the counts are those of the tutorial, the order with the empty key among them."""
    with TopologyTestDriver(food_orders(), partitions=PARTITIONS) as driver:
        pipe(driver, "customer", "customers.txt")
        pipe(driver, "order", "orders.txt")
        driver.restore()
        customers = [dict(driver.store(CUSTOMERS, p).all()) for p in range(PARTITIONS)]
        assert customers[1:] == [{"4": "james", "6": "mathew"}, {"2": "adam", "3": "daniel"}]
        assert list(driver.store(CUSTOMERS, 0).range("1", "5")) == [("1", "john"), ("5", "jack")]
        counts = [dict(driver.store(ORDER_COUNT, p).all()) for p in range(PARTITIONS)]
        assert counts == [{"": 1, "1": 1}, {}, {"2": 1}]


def test_who_or_what_is_unknown_is_called_so() -> None:
    """An order of a customer without row is counted like any other; a value of several words stays whole."""
    assert name_order("big pizza", None) == NamedOrder("UNKNOWN", "big pizza")
    assert name_order(None, "adam") == NamedOrder("adam", "UNKNOWN")
    with TopologyTestDriver(food_orders()) as driver:
        driver.pipe_input("customer", "2", "adam")
        driver.pipe_input("customer", "2", None)
        driver.pipe_input("order", "2", "big pizza")
        assert driver.store(CUSTOMERS).get("2") is None
        assert driver.store(ORDER_COUNT).get("2") == 1
