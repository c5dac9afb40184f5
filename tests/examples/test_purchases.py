"""Purchases: what is computed, tried without a log. Both versions, with the data and the output of the tutorial."""

from pathlib import Path

import pytest

from examples.purchases.topology import PURCHASES, VERSIONS, WAIT_MS, Version, enriched
from streams.testing import TopologyTestDriver

DATA = Path(__file__).parents[2] / "examples" / "purchases" / "data"


def driver_of(version: Version) -> TopologyTestDriver:
    return TopologyTestDriver(
        enriched(version, WAIT_MS),
        partitions=8,
        on_deserialization_error="quarantine",
        on_processing_error="quarantine",
    )


def lines(topic: str) -> list[bytes]:
    return (DATA / f"{topic}.txt").read_bytes().splitlines()


def pipe_rows(driver: TopologyTestDriver, version: Version) -> None:
    for line in lines(version.table):
        key, _, value = line.partition(b",")
        driver.pipe_bytes(version.table, key, value)


@pytest.mark.parametrize("version", VERSIONS.values(), ids=lambda each: each.events)
def test_the_output_is_the_tutorials_to_the_byte(version: Version) -> None:
    """As a multiset: what is unknown comes later than in the text, since it has waited."""
    with driver_of(version) as driver:
        pipe_rows(driver, version)
        for line in lines(version.events):
            driver.pipe_bytes(version.events, None, line)
        driver.advance_wall_clock(WAIT_MS)
        output = driver.read_bytes(version.output)
        assert sorted(each.value for each in output if each.value) == sorted(lines(version.output))
        assert {each.key: each.partition for each in output} == {b"1": 7, b"2": 0, b"30": 7}


def test_who_comes_before_his_row_waits_for_it() -> None:
    """No purchase keeps the name for unknown products because its product was announced a moment later; nor is what
    waits forgotten when the task moves."""
    with driver_of(PURCHASES) as driver:
        driver.pipe_bytes("achats", None, b'{"id": 2, "price": 13.40}', 1_000)
        driver.advance_wall_clock(WAIT_MS - 1)
        assert driver.read_bytes("achats-enrichis") == []
        driver.restore()
        pipe_rows(driver, PURCHASES)
        driver.advance_wall_clock(WAIT_MS // 2)
        (output,) = driver.read_bytes("achats-enrichis")
        assert output.value == b'{"id":2,"name":"produit2","price":13.40}'
        assert output.timestamp_ms == 1_000


def test_a_deleted_product_is_unknown() -> None:
    """A tombstone removes the row, and a new row is seen by what comes after it."""
    with driver_of(PURCHASES) as driver:
        pipe_rows(driver, PURCHASES)
        driver.pipe_bytes("referentiel", b"1", None)
        driver.pipe_bytes("achats", None, b'{"id": 1, "price": 5}')
        driver.advance_wall_clock(WAIT_MS)
        driver.pipe_bytes("referentiel", b"1", b'{"id":1, "name":"produit un"}')
        driver.pipe_bytes("achats", None, b'{"id": 1, "price": 5.0}')
        assert [each.value for each in driver.read_bytes("achats-enrichis")] == [
            b'{"id":1,"name":"REF INCONNUE","price":5}',
            b'{"id":1,"name":"produit un","price":5.0}',
        ]


def test_what_is_no_purchase_is_set_aside_and_stops_nobody() -> None:
    """Each of them stopped the original for good, or was taken for an empty one."""
    poison = [b"not json", b'{"price": 1.00}', b'{"id": true, "price": 1}', b'{"id": 1, "price": "1"}', b"[]"]
    poison += [b'{"id": 1, "price": 1, "colour": "red"}', b'{"id": 1, "price": NaN}', b"\xff"]
    with driver_of(PURCHASES) as driver:
        pipe_rows(driver, PURCHASES)
        driver.pipe_bytes("referentiel", b"4", b'{"id": 4}')
        for value in (*poison, b'{"id": 3, "price": 0.10}', b'{"id": 4, "price": 1}'):
            driver.pipe_bytes("achats", None, value)
        driver.pipe_bytes("achats", b"3", None)
        driver.advance_wall_clock(WAIT_MS)
        assert [each.value for each in driver.read_bytes("achats-enrichis")] == [
            b'{"id":3,"name":"produit3","price":0.10}',
            b'{"id":4,"name":"REF INCONNUE","price":1}',
        ]
        quarantined = [each.value for each in driver.read_bytes("enrichissement-achats-quarantine")]
        assert quarantined == [b'{"id": 4}', *poison, None]
