"""Avro over a registry that really speaks HTTP, small as it is: the wire format, evolution, and a registry that
fails."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from streams.dsl import StreamsBuilder
from streams.errors import ConfigError, SerdeUnavailable, SerializationError
from streams.serdes.avro import AvroSerde
from streams.serdes.registry import SchemaRegistry
from streams.testing.driver import TopologyTestDriver
from tests.support.registry import Registry

OLD: dict[str, Any] = {
    "type": "record",
    "name": "Access",
    "fields": [{"name": "host", "type": "string"}, {"name": "size", "type": "long"}],
}
NEW: dict[str, Any] = {**OLD, "fields": [*OLD["fields"], {"name": "user", "type": ["null", "string"], "default": None}]}
PRICE: dict[str, Any] = {
    "type": "record",
    "name": "Price",
    "fields": [{"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}}],
}


@dataclass(frozen=True)
class Access:
    host: str
    size: int


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Yield a registry without schemas."""
    made = Registry()
    yield made
    made.close()


def serde_of(registry: Registry, schema: Any = OLD, **options: Any) -> AvroSerde:
    """Return a serde that asks *registry*."""
    return AvroSerde(SchemaRegistry(registry.url), subject="accesses-value", schema=schema, **options)


def test_a_value_is_written_in_the_wire_format_and_read_back(registry: Registry) -> None:
    """A zero byte, the id in four bytes, then Avro; the registry is asked once for each schema and id."""
    serde = serde_of(registry)
    data = serde.serialize({"host": "a", "size": 3})
    assert data == b"\x00\x00\x00\x00\x01" + b"\x02a\x06"
    for _ in range(3):
        assert serde.serialize({"host": "a", "size": 3}) == data
        assert serde.deserialize(data) == {"host": "a", "size": 3}
    assert [request[:2] for request in registry.requests] == [
        ("POST", "/subjects/accesses-value/versions"),
        ("GET", "/schemas/ids/1"),
    ]


def test_what_was_written_with_another_schema_is_resolved(registry: Registry) -> None:
    """A reader with a new field reads old values with its default, and an old reader reads new values."""
    old, new = serde_of(registry), serde_of(registry, NEW)
    assert new.deserialize(old.serialize({"host": "a", "size": 3})) == {"host": "a", "size": 3, "user": None}
    assert old.deserialize(new.serialize({"host": "a", "size": 3, "user": "u"})) == {"host": "a", "size": 3}


def test_decimals_and_dataclasses_go_through_avro(registry: Registry) -> None:
    """A logical decimal keeps its digits; a shape is applied to what is read."""
    price = serde_of(registry, PRICE)
    assert str(price.deserialize(price.serialize({"price": Decimal("13.40")}))["price"]) == "13.40"
    shaped = serde_of(registry, shape=Access)
    assert shaped.deserialize(shaped.serialize(Access("a", 3))) == Access("a", 3)


@pytest.mark.parametrize("data", [b"", b"\x00\x00", b"\x01\x00\x00\x00\x01\x02a\x06", b"\x00\x00\x00\x00\x01\x02"])
def test_other_bytes_are_refused(registry: Registry, data: bytes) -> None:
    """Too short, another magic byte, or cut off."""
    serde = serde_of(registry)
    serde.serialize({"host": "a", "size": 3})
    with pytest.raises(SerializationError):
        serde.deserialize(data)


def test_bytes_behind_the_value_are_refused(registry: Registry) -> None:
    """They are not of this schema."""
    serde = serde_of(registry)
    with pytest.raises(SerializationError, match="left over"):
        serde.deserialize(serde.serialize({"host": "a", "size": 3}) + b"x")


def test_an_unknown_id_is_the_records_fault(registry: Registry) -> None:
    """The registry answered: there is no such schema."""
    with pytest.raises(SerializationError, match="404"):
        serde_of(registry).deserialize(b"\x00\x00\x00\x00\x09\x02a\x06")


@pytest.mark.parametrize("value", [{"host": "a"}, {"host": 1, "size": 3}, {"host": "a", "size": 3, "more": 1}, None])
def test_a_value_that_does_not_fit_is_refused(registry: Registry, value: Any) -> None:
    """Nothing is left out or made up silently."""
    with pytest.raises(SerializationError):
        serde_of(registry).serialize(value)


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_a_registry_that_fails_is_not_the_records_fault(registry: Registry, status: int) -> None:
    """The error is another one, and says so."""
    serde = serde_of(registry)
    data = serde.serialize({"host": "a", "size": 3})
    registry.status = status
    with pytest.raises(SerdeUnavailable, match=str(status)):
        serde.deserialize(data)
    registry.status = None
    assert serde.deserialize(data) == {"host": "a", "size": 3}


def test_no_policy_sets_a_record_aside_because_the_registry_is_away(registry: Registry) -> None:
    """Quarantine is for bad records; this one is tried again later."""
    serde = serde_of(registry)
    data = serde.serialize({"host": "a", "size": 3})
    builder = StreamsBuilder("avro")
    builder.stream("in", key=str, value=serde_of(registry)).map_values(lambda value: value["size"], value=int).to("out")
    topology = builder.build()
    registry.status = 503
    with (
        TopologyTestDriver(topology, on_deserialization_error="quarantine", on_processing_error="skip") as driver,
        pytest.raises(SerdeUnavailable),
    ):
        driver.pipe_bytes("in", b"k", data)
    registry.status = None
    with TopologyTestDriver(topology) as driver:
        driver.pipe_bytes("in", b"k", data)
        assert driver.read_values("out") == [("k", 3)]


def test_a_schema_is_only_registered_where_that_is_allowed(registry: Registry) -> None:
    """Without auto_register an unknown schema is refused."""
    with pytest.raises(SerializationError, match="404"):
        serde_of(registry, auto_register=False).serialize({"host": "a", "size": 3})
    serde_of(registry).serialize({"host": "a", "size": 3})
    assert (
        serde_of(registry, auto_register=False).serialize({"host": "a", "size": 3}).startswith(b"\x00\x00\x00\x00\x01")
    )


def test_credentials_are_sent_and_never_shown(registry: Registry) -> None:
    """Basic authentication; neither an error nor the url shows a password."""
    client = SchemaRegistry(registry.url, user="u", password="secret")
    registry.status = 401
    with pytest.raises(SerdeUnavailable) as caught:
        client.schema_of(1)
    assert registry.requests[-1][2] == "Basic dTpzZWNyZXQ="
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError):
        SchemaRegistry("http://u:secret@localhost:8081")


def test_a_schema_that_is_none_is_refused_at_once(registry: Registry) -> None:
    """Before anything is asked."""
    with pytest.raises(ConfigError, match="accesses-value"):
        serde_of(registry, {"type": "recor"})
    assert not registry.requests
