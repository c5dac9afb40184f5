"""One HTTP client for Elasticsearch and OpenSearch: connections, credentials, TLS, and what an answer's status means.

It never asks which product or version answers: only requests that all of them know are made with it. Invariant: every
request is bounded in time, is made once (whoever calls decides about repeating), and no credential or content gets into
an error's message.
"""

import gzip
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson
import urllib3

from app.replication.ports import SinkUnavailable, SinkUnusable
from streams.errors import ConfigError

_CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
_GZIP_FROM_BYTES = 1024
_GZIP_LEVEL = 1  # a third of the bytes at a tenth of the default level's time
_JSON = "application/json"
_JSON_LINES = "application/x-ndjson"
#: Statuses after which the same request may succeed later, as the servers and the proxies before them use them.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
#: A block on an index or the cluster: a full disk (flood stage), maintenance, no master. Somebody will lift it.
BLOCKED = "cluster_block_exception"


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How to reach the servers and as whom. Checked when made: raises ConfigError.

    `urls`: one or more nodes of one cluster; a path in them is a prefix (a proxy's). `ca_file`: PEM, instead of the
    system's authorities.
    """

    urls: Sequence[str]
    api_key: str | None = field(default=None, repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    timeout_s: float = READ_TIMEOUT_S

    def __post_init__(self) -> None:
        if not self.urls:
            raise ConfigError("no address of Elasticsearch or OpenSearch was given (--url)")
        for url in self.urls:
            _check_url(url)
        if self.api_key is not None and self.username is not None:
            raise ConfigError("PROFILES_SINK_API_KEY and PROFILES_SINK_USERNAME are both set; choose one")
        if (self.username is None) != (self.password is None):
            raise ConfigError("PROFILES_SINK_USERNAME and PROFILES_SINK_PASSWORD belong together; one is not set")
        is_secret = self.api_key is not None or self.password is not None
        for url in self.urls:
            parts = urlsplit(url)
            if is_secret and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
                raise ConfigError(f"credentials would go over the network unencrypted: use https for {parts.hostname}")
        if self.ca_file is not None and not self.ca_file.is_file():
            raise ConfigError(f"there is no CA file {self.ca_file}")


class Answer(NamedTuple):
    """A whole answer that is no transient failure. `document`: its JSON, None without any."""

    status: int
    document: Any

    @property
    def error_type(self) -> str:
        """The servers' word for what is wrong; empty if there is none."""
        error = self.document.get("error") if isinstance(self.document, dict) else None
        return str(error.get("type", "")) if isinstance(error, dict) else ""


class SearchClient:
    """Any thread may use it. Makes no connection before the first request."""

    def __init__(self, settings: SearchSettings, *, connections: int) -> None:
        """*connections*: how many requests may be under way to a node at the same time. Raises ConfigError for a CA
        file that cannot be read."""
        headers = urllib3.make_headers(user_agent="profiles-replicator")
        if settings.api_key is not None:
            headers["authorization"] = f"ApiKey {settings.api_key}"
        elif settings.username is not None:
            headers |= urllib3.make_headers(basic_auth=f"{settings.username}:{settings.password}")
        self._headers = headers
        self._urls = [url.rstrip("/") for url in settings.urls]
        self._current = 0  # which of the nodes is asked; only ever replaced whole
        self._pool = urllib3.PoolManager(
            num_pools=len(self._urls),
            maxsize=connections,
            block=False,
            retries=False,
            timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_S, read=settings.timeout_s),
            ssl_context=_tls(settings.ca_file) if any(url.startswith("https") for url in self._urls) else None,
        )

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        lines: bytes | None = None,
        expected: Sequence[int] = (200,),
    ) -> Answer:
        """Return the answer, whose status is in *expected*. *body* is sent as JSON, *lines* as they are.

        Raises SinkUnavailable when there is no (whole) answer or a transient one: the request may or may not have been
        carried out. Raises SinkUnusable for a refusal that time does not mend.
        """
        answer = self._ask(method, path, body, lines)
        if answer.status in expected:
            return answer
        what = f"{method} /{path.lstrip('/').partition('?')[0]}"
        found = f"{answer.status} {answer.error_type}".rstrip()
        if answer.status in _TRANSIENT or answer.error_type == BLOCKED:
            raise SinkUnavailable(f"{what} was answered {found}")
        if answer.status in (401, 403):
            raise SinkUnusable(f"{what} was answered {found}: these credentials are not accepted, or may not do that")
        raise SinkUnusable(f"{what} was answered {found}{_detail(answer)}")

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._pool.clear()

    def _ask(self, method: str, path: str, body: object, lines: bytes | None) -> Answer:
        data = lines if lines is not None else None if body is None else orjson.dumps(body)
        headers = dict(self._headers)
        if data is not None:
            headers["content-type"] = _JSON_LINES if lines is not None else _JSON
            if len(data) >= _GZIP_FROM_BYTES:
                data = gzip.compress(data, _GZIP_LEVEL)
                headers["content-encoding"] = "gzip"
        chosen = self._current
        url = self._urls[chosen]
        try:
            answer = self._pool.request(method, f"{url}/{path.lstrip('/')}", body=data, headers=headers, redirect=False)
            text = answer.data
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self._current = (chosen + 1) % len(self._urls)
            if any(isinstance(one, ssl.SSLCertVerificationError) for one in error.args):
                raise SinkUnusable(
                    f"{_place(url)} has a certificate that nobody here vouches for; see PROFILES_SINK_CA_FILE"
                ) from error
            raise SinkUnavailable(f"{_place(url)}: {_reason(error)}") from error
        if answer.status in (502, 503, 504):
            self._current = (chosen + 1) % len(self._urls)
        try:
            document = orjson.loads(text) if text else None
        except orjson.JSONDecodeError as error:
            if answer.status < 300:
                raise SinkUnavailable(f"{_place(url)} sent an answer that is no JSON") from error
            document = None  # an error page of some proxy; the status says enough
        return Answer(answer.status, document)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ConfigError("an address of the servers (--url) cannot be read; http://host:9200 is expected") from None
    if parts.username is not None or parts.password is not None:
        # Not repeated here: it would end up in a log.
        raise ConfigError(
            "the address (--url) contains credentials, which every user of this machine could see in the list of "
            "processes; set PROFILES_SINK_USERNAME and PROFILES_SINK_PASSWORD (or _FILE) instead"
        )
    if not is_good or parts.query or parts.fragment:
        raise ConfigError(f"{url!r} is no address of Elasticsearch or OpenSearch; http://host:9200 is expected")


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"the CA file {ca_file} cannot be used: {error}") from error


def _place(url: str) -> str:
    return urlsplit(url).netloc


def _reason(error: Exception) -> str:
    """Return what is wrong, without urllib3's objects."""
    if isinstance(error, urllib3.exceptions.SSLError):
        return "no TLS connection"
    if isinstance(error, urllib3.exceptions.NewConnectionError):  # for urllib3 one of the next kind
        return "no connection"
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError | urllib3.exceptions.ReadTimeoutError):
        return "no answer in time"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "the connection broke"
    return type(error).__name__


def _detail(answer: Answer) -> str:
    """Return the servers' own sentence. Only for requests that carry no content of profiles."""
    error: Mapping[str, Any] = answer.document.get("error", {}) if isinstance(answer.document, dict) else {}
    reason = error.get("reason") if isinstance(error, Mapping) else error
    return f": {reason}" if reason else ""
