"""A client of schema registries with Confluent's HTTP API (Confluent, Karapace, Apicurio, Redpanda): schemas by id,
ids by schema.

Each id and each schema is asked for once and then remembered, since neither ever changes. A call blocks for at most
`timeout_s` and one repetition; it is made by whoever meets an id for the first time. A registry that cannot be
reached is not the record's fault: SerdeUnavailable, and the record is tried again. Any thread.

Source: Confluent's "Schema Registry API Reference".
"""

import base64
import http.client
import json
import ssl
import threading
from collections import OrderedDict
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from streams.errors import ConfigError, SerdeUnavailable, SerializationError

K = TypeVar("K")
V = TypeVar("V")

_MAX_KNOWN = 1000  # ids that are remembered; a topic that brings more costs a question each
_MAX_ANSWER = 4 * 1024 * 1024  # bytes
_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"


class SchemaRegistry:
    """Asks one registry. Safe for several threads: they may ask twice, and get the same answer."""

    def __init__(
        self,
        url: str,
        *,
        user: str | None = None,
        password: str = "",
        timeout_s: float = 5.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """*url*: `http://host:port` or https, perhaps with a path. *user*, *password*: for basic authentication;
        neither is ever put into a message. Raises ConfigError for anything else; nothing is connected yet."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ConfigError("the url of a schema registry is http(s)://host:port, without user and password")
        self._host = parts.hostname
        self._port = parts.port
        self._path = parts.path.rstrip("/")
        self._tls = tls if parts.scheme == "http" or tls is not None else ssl.create_default_context()
        self._is_tls = parts.scheme == "https"
        self._timeout_s = timeout_s
        self._headers = {"Accept": _CONTENT_TYPE, "Content-Type": _CONTENT_TYPE}
        if user is not None:
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        self._schemas: OrderedDict[int, str] = OrderedDict()
        self._ids: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._lock = threading.Lock()

    def schema_of(self, schema_id: int) -> str:
        """Return the schema of *schema_id* as JSON. Raises SerializationError when there is none, SerdeUnavailable."""
        known = self._schemas.get(schema_id)
        if known is not None:
            return known
        answer = self._ask("GET", f"/schemas/ids/{schema_id}", None)
        if answer.get("schemaType", "AVRO") != "AVRO" or answer.get("references"):
            raise SerializationError(
                f"schema {schema_id} is no plain Avro schema (other types and references are not read)"
            )
        return self._remember(self._schemas, schema_id, str(answer["schema"]))

    def id_of(self, subject: str, schema: str, *, register: bool) -> int:
        """Return the id of *schema* under *subject*. With *register* it is registered if it is new, which the
        registry refuses when it does not fit the subject's earlier ones; without, it must be there. Raises
        SerializationError, SerdeUnavailable.
        """
        known = self._ids.get((subject, schema))
        if known is not None:
            return known
        path = f"/subjects/{quote(subject, safe='')}" + ("/versions" if register else "")
        answer = self._ask("POST", path, {"schema": schema})
        return self._remember(self._ids, (subject, schema), int(answer["id"]))

    def _remember(self, known: "OrderedDict[K, V]", key: K, value: V) -> V:
        with self._lock:
            known[key] = value
            if len(known) > _MAX_KNOWN:
                known.popitem(last=False)
        return value

    def _ask(self, method: str, path: str, body: Any) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        status, answer = 0, b""
        for is_last in (False, True):
            try:
                status, answer = self._call(method, self._path + path, data)
            except (OSError, http.client.HTTPException) as error:
                if is_last:
                    raise SerdeUnavailable(f"the schema registry at {self._host} does not answer: {error}") from error
                continue
            if status < 500 and status != http.HTTPStatus.TOO_MANY_REQUESTS:
                break
        if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN) or status >= 500 or status == 429:
            raise SerdeUnavailable(f"the schema registry at {self._host} answered {status} to {method} {path}")
        if status != http.HTTPStatus.OK:
            raise SerializationError(f"the schema registry refuses {method} {path}: {status} {answer[:200]!r}")
        try:
            found = json.loads(answer)
        except ValueError as error:
            raise SerdeUnavailable(f"what answers at {self._host} is no schema registry") from error
        return found if isinstance(found, dict) else {}

    def _call(self, method: str, path: str, data: bytes | None) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection
        if self._is_tls:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        try:
            connection.request(method, path, data, self._headers)
            response = connection.getresponse()
            answer = response.read(_MAX_ANSWER + 1)
            if len(answer) > _MAX_ANSWER:
                raise http.client.HTTPException("the answer is too long")
            return response.status, answer
        finally:
            connection.close()
