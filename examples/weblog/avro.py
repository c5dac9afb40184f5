"""Log records in Avro: in the wire format of a schema registry, or, where there is none, as they are.

With a registry every record names its schema, so readers need nothing but the registry. Without one they need this
schema, and must be told when it changes.
"""

import io
import json
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer

from examples.weblog.lines import LogRecord, from_members, to_members
from streams.serdes import FunctionSerde, Serde
from streams.serdes.avro import AvroSerde
from streams.serdes.registry import SchemaRegistry

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "LogRecord",
    "namespace": "weblog",
    "fields": [
        {"name": "host", "type": "string"},
        {"name": "clientId", "type": "string"},
        {"name": "user", "type": "string"},
        {"name": "timestamp", "type": "string"},
        {"name": "method", "type": "string"},
        {"name": "endpoint", "type": "string"},
        {"name": "protocol", "type": "string"},
        {"name": "httpReplyCode", "type": "int"},
        {"name": "payloadSize", "type": "long"},
    ],
}


def avro(subject: str, registry_url: str | None = None) -> Serde[LogRecord]:
    """Return the serde of log records. *registry_url*: where the schema is registered under *subject*; None: nowhere.
    Nothing is asked before the first record."""
    if registry_url is None:
        return FunctionSerde("avro<LogRecord>", dump=_dump, load=_load)
    wire = AvroSerde(SchemaRegistry(registry_url), subject=subject, schema=json.dumps(SCHEMA))
    return _Shaped(wire)


_PARSED = parse_schema(SCHEMA)


def _dump(record: LogRecord) -> bytes:
    buffer = io.BytesIO()
    schemaless_writer(buffer, _PARSED, to_members(record), strict=True)
    return buffer.getvalue()


def _load(data: bytes) -> LogRecord:
    found = schemaless_reader(io.BytesIO(data), _PARSED, _PARSED)
    assert isinstance(found, dict), "the schema is a record's"
    return from_members(found)


class _Shaped:
    """Log records instead of the plain members that *wire* reads and writes."""

    def __init__(self, wire: AvroSerde) -> None:
        self.name = wire.name
        self._wire = wire

    def serialize(self, value: LogRecord) -> bytes:
        return self._wire.serialize(to_members(value))

    def deserialize(self, data: bytes) -> LogRecord:
        return from_members(self._wire.deserialize(data))
