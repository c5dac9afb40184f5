"""Avro with a schema registry, in Confluent's wire format: a zero byte, the id of the schema in 4 bytes, the value in
Avro.

Needs fastavro (`pip install profiles[avro]`), which nothing else imports. A value is a dict, or shaped by a
dataclass; a field with the logical type decimal is a Decimal. What is read is read with the schema that it was
written with, and resolved to the serde's own, as Avro says. Any thread.

Source: Confluent's "Wire Format" (Schema Registry, Formats, Serializers, and Deserializers).
"""

import io
import json
import struct
from collections.abc import Callable
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer

from streams.errors import ConfigError, SerdeUnavailable, SerializationError
from streams.serdes.registry import SchemaRegistry
from streams.serdes.shapes import dataclass_shape

_HEAD = struct.Struct(">bI")
_MAX_PARSED = 1000


class AvroSerde:
    """Values of one schema."""

    def __init__(
        self,
        registry: SchemaRegistry,
        *,
        subject: str,
        schema: str | dict[str, Any],
        auto_register: bool = True,
        shape: type | None = None,
    ) -> None:
        """*subject*: usually `<topic>-value` or `<topic>-key`. *schema*: Avro's JSON. *auto_register*: register it
        with the first value that is written; otherwise it must be there. *shape*: a dataclass for values. Raises
        ConfigError for a schema that is none; the registry is not asked yet."""
        self.name = f"avro<{subject}>"
        self._registry = registry
        self._subject = subject
        self._text = schema if isinstance(schema, str) else json.dumps(schema)
        self._auto_register = auto_register
        try:
            self._schema: Any = parse_schema(json.loads(self._text))
        except Exception as error:
            raise ConfigError(f"the schema of {subject} is no Avro schema: {error}") from error
        self._writers: dict[int, Any] = {}
        self._head: bytes | None = None
        self._load: Callable[[Any], Any] | None = None
        self._dump: Callable[[Any], Any] | None = None
        if shape is not None:
            self._load, self._dump = dataclass_shape(shape)

    def serialize(self, value: Any) -> bytes:
        """Return the bytes of *value*. Raises SerializationError, or SerdeUnavailable when the registry does not
        answer."""
        head = self._head
        if head is None:
            schema_id = self._registry.id_of(self._subject, self._text, register=self._auto_register)
            head = self._head = _HEAD.pack(0, schema_id)
        buffer = io.BytesIO()
        buffer.write(head)
        try:
            schemaless_writer(buffer, self._schema, value if self._dump is None else self._dump(value), strict=True)
        except Exception as error:
            raise SerializationError(f"{self.name} cannot write {type(value).__name__}: {error}") from error
        return buffer.getvalue()

    def deserialize(self, data: bytes) -> Any:
        """Return the value of *data*. Raises as `serialize`."""
        if len(data) < _HEAD.size or data[0] != 0:
            raise SerializationError(f"{self.name} cannot read {data[:20]!r}: not in the wire format of a registry")
        _, schema_id = _HEAD.unpack_from(data)
        try:
            buffer = io.BytesIO(data)
            buffer.seek(_HEAD.size)
            value = schemaless_reader(buffer, self._writer_of(schema_id), self._schema)
            _check_end(buffer, len(data))
            return value if self._load is None else self._load(value)
        except (SerdeUnavailable, SerializationError):
            raise
        except Exception as error:
            raise SerializationError(f"{self.name} cannot read {data[:20]!r}: {error}") from error

    def _writer_of(self, schema_id: int) -> Any:
        found = self._writers.get(schema_id)
        if found is None:
            if len(self._writers) >= _MAX_PARSED:
                self._writers = {}
            found = parse_schema(json.loads(self._registry.schema_of(schema_id)))
            self._writers[schema_id] = found
        return found

    def __repr__(self) -> str:
        return f"<serde {self.name}>"


def _check_end(buffer: io.BytesIO, length: int) -> None:
    if buffer.tell() != length:
        raise ValueError(f"{length - buffer.tell()} bytes are left over")
