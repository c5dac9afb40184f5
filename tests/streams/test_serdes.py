"""Serdes: what is written is read again, unchanged, and what does not fit is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import marshmallow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import serdes
from streams.errors import ConfigError, SerializationError
from streams.serdes import JSON, JsonSerde, Windowed

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.decimals(allow_nan=False, allow_infinity=False, places=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@dataclass(frozen=True)
class Line:
    product: str
    price: Decimal
    weight: float | None = None


@dataclass(frozen=True)
class Order:
    id: int
    lines: list[Line]
    tags: dict[str, str]
    is_paid: bool = False


class ProductSchema(marshmallow.Schema):
    """As the users of marshmallow write it."""

    id = marshmallow.fields.Integer(required=True, strict=True)
    name = marshmallow.fields.String(required=True)


@pytest.mark.parametrize(
    ("serde", "value", "data"),
    [
        (serdes.STRING, "été", "été".encode()),
        (serdes.STRING, "", b""),
        (serdes.BYTES, b"\x00\xff", b"\x00\xff"),
        (serdes.INTEGER, -2, b"\xff\xff\xff\xfe"),
        (serdes.LONG, 1, b"\0\0\0\0\0\0\0\1"),
        (serdes.DOUBLE, 1.5, b"\x3f\xf8\0\0\0\0\0\0"),
        (serdes.BOOLEAN, True, b"\x01"),
        (serdes.UUID_TEXT, UUID(int=1), b"00000000-0000-0000-0000-000000000001"),
        (serdes.TimeWindowedSerde(serdes.STRING, 10), Windowed("k", 5, 15), b"k\0\0\0\0\0\0\0\5"),
        (serdes.SessionWindowedSerde(serdes.STRING), Windowed("k", 1, 2), b"k\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\1"),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_values_have_the_bytes_of_kafkas_serializers(serde: Any, value: Any, data: bytes) -> None:
    """The layouts are Kafka's; the golden corpus has many more."""
    assert serde.serialize(value) == data
    assert serde.deserialize(data) == value


@given(_json)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    """No value is changed on its way, and the same value has the same bytes again."""
    data = JSON.serialize(value)
    assert JSON.deserialize(data) == value
    assert JSON.serialize(JSON.deserialize(data)) == data


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()))
def test_a_mapping_of_any_type_makes_the_same_bytes(value: dict[str, Any]) -> None:
    """Members without fractions are written a shorter way, which must not show: keys are compared by their bytes."""
    assert JSON.serialize(value) == JSON.serialize(MappingProxyType(value))
    nested = {"in": value, "price": Decimal("13.40")}
    assert JSON.serialize(nested) == b'{"in":' + JSON.serialize(MappingProxyType(value)) + b',"price":13.40}'


@pytest.mark.parametrize(
    "text", ["13.40", "3.40", "0.10", "1.0", "-0.00", "100", "123456789012345678901234567890.123456789", "1E-9"]
)
def test_decimals_keep_their_digits(text: str) -> None:
    """A price of 13.40 is not 13.4 afterwards."""
    data = f'{{"price":{text}}}'.encode()
    read = JSON.deserialize(data)
    assert str(Decimal(read["price"])) == str(Decimal(text))
    assert Decimal(JSON.serialize(read)[9:-1].decode()) == Decimal(text)
    if "E" not in text:
        assert JSON.serialize(read) == data


def test_a_huge_exponent_takes_no_huge_text() -> None:
    """1E+1000000 is a few bytes of input, and must not become a million of output."""
    assert len(JSON.serialize(JSON.deserialize(b"1E+1000000"))) < 20


def test_members_keep_their_order_and_nothing_is_put_between() -> None:
    """The expected output of the purchases example, to the byte."""
    value = {"id": 2, "name": "produit2", "price": Decimal("13.40")}
    assert JSON.serialize(value) == b'{"id":2,"name":"produit2","price":13.40}'


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), Decimal("NaN"), {1: "a"}, {"a": object()}, {"a": b"bytes"}, {"a": {1, 2}}]
)
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    """Nothing is made into something else silently."""
    with pytest.raises(SerializationError):
        JSON.serialize(value)


@pytest.mark.parametrize("data", [b"", b"{", b"NaN", b"[1,]", b"\xff", b'{"a":Infinity}'])
def test_what_is_not_json_is_refused(data: bytes) -> None:
    """Every malformed value is one kind of error."""
    with pytest.raises(SerializationError):
        JSON.deserialize(data)


def test_endless_nesting_is_refused() -> None:
    """A value that contains itself ends in an error, not in the interpreter's limit."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(SerializationError):
        JSON.serialize(value)
    with pytest.raises(SerializationError):
        JSON.deserialize(b"[" * 100_000)


def test_a_dataclass_is_written_with_its_members_and_read_back() -> None:
    """Nested ones, lists, optional members and decimals included."""
    serde = serdes.of(Order)
    order = Order(7, [Line("tea", Decimal("13.40")), Line("pot", Decimal("5"), 1.5)], {"a": "b"}, True)
    data = serde.serialize(order)
    assert b'"price":13.40' in data
    assert serde.deserialize(data) == order
    assert serde.deserialize(b'{"id":1,"lines":[],"tags":{}}') == Order(1, [], {})


@pytest.mark.parametrize(
    "data",
    [
        b'{"id":"1","lines":[],"tags":{}}',
        b'{"id":true,"lines":[],"tags":{}}',
        b'{"lines":[],"tags":{}}',
        b'{"id":1,"lines":[],"tags":{},"more":1}',
        b'{"id":1,"lines":[{"product":"tea","price":"13.40"}],"tags":{}}',
        b"[]",
        b"null",
    ],
)
def test_what_is_not_of_the_dataclass_is_refused(data: bytes) -> None:
    """A wrong type, a missing or an unknown member: all are said when the record is read, not later."""
    with pytest.raises(SerializationError):
        serdes.of(Order).deserialize(data)


def test_a_marshmallow_schema_shapes_json() -> None:
    """Any object with load and dump will do; what the schema refuses is an error of the serde."""
    serde = JsonSerde(schema=ProductSchema(), name="product")
    assert serde.deserialize(serde.serialize({"id": 1, "name": "tea"})) == {"id": 1, "name": "tea"}
    with pytest.raises(SerializationError, match="product"):
        serde.deserialize(b'{"id":1}')


@pytest.mark.parametrize(
    ("serde", "value"),
    [
        (serdes.STRING, 1),
        (serdes.STRING, "\ud800"),
        (serdes.BYTES, "text"),
        (serdes.INTEGER, 2**31),
        (serdes.LONG, 2**63),
        (serdes.LONG, "1"),
        (serdes.DOUBLE, "1"),
        (serdes.BOOLEAN, 1),
    ],
)
def test_a_value_of_another_type_is_refused(serde: Any, value: Any) -> None:
    """And the error names the serde and the type."""
    with pytest.raises(SerializationError, match=f"{serde.name}.*{type(value).__name__}"):
        serde.serialize(value)


@pytest.mark.parametrize("read", [serdes.LONG.deserialize, serdes.INTEGER.deserialize, serdes.DOUBLE.deserialize])
def test_numbers_of_another_width_are_refused(read: Callable[[bytes], Any]) -> None:
    """Three bytes are no number."""
    with pytest.raises(SerializationError):
        read(b"abc")


def test_a_type_stands_for_its_usual_serde() -> None:
    """And one without a usual serde is refused with advice."""
    assert serdes.of(str) is serdes.STRING
    assert serdes.of(int) is serdes.LONG
    assert serdes.of(dict) is JSON
    assert serdes.of(serdes.INTEGER) is serdes.INTEGER
    with pytest.raises(ConfigError, match="complex"):
        serdes.of(complex)


@given(st.lists(st.text(), min_size=2))
def test_bytes_of_text_have_the_order_of_the_text(texts: list[str]) -> None:
    """So a range of text keys in a store means what it says."""
    assert sorted(texts) == sorted(texts, key=serdes.STRING.serialize)
