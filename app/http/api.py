"""The API as one ASGI application: which resource answers which path. Everything is wired here, and nothing is decided.

Nothing happens at import; `create_api` is called in the worker process, after the fork.
"""

from collections.abc import Callable
from typing import Any

from falcon.asgi import App, Request, Response

from app.cluster.assembly import Cluster
from app.cluster.ports import Members
from app.feed.feed import Feed
from app.http import errors
from app.http.changes import CHANGES_PATH, Changes
from app.http.context import REQUEST_ID, STARTED
from app.http.docs import Docs, Documents, OpenApi, ProblemPage
from app.http.entry import Entry
from app.http.fastpath import FastPath, ProxiedPath
from app.http.forward import Dispatch
from app.http.imports import IMPORT_PATH, Imports
from app.http.metadata import KeyMetadata, Metadata, StoreMetadata
from app.http.ops import Livez, MetricsPage, Quarantine, Readyz
from app.http.ports import Listing, Metrics, NodeView, Service
from app.http.profiles import PROFILES_PATH, Profile, Profiles
from app.http.search import SEARCH_PATH, Search
from app.http.stores import ApproximateNumEntries
from app.profiles.uids import RandomBytes
from streams.clock import Clock
from streams.cluster import NOWHERE, ClusterView
from streams.queries.counts import Counts

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT", "QUERY")
_COUNTED = frozenset((*_METHODS, "OPTIONS"))


def create_api(
    *,
    service: Service,
    node: NodeView,
    clock: Clock,
    metrics: Metrics,
    request_timeout_s: float,
    random: RandomBytes,
    members: Members,
    feed: Feed,
    cluster: Cluster | None,
    counts: Counts,
) -> Entry:
    """Return the ASGI application. It owns no thread and no file; it lives as long as the event loop that calls it.

    *request_timeout_s*: when the answer to a request is due; a client can shorten it by `Request-Timeout`. *cluster*
    None: this node is alone for ever.
    """
    dispatch = Dispatch(
        clock=clock,
        random=random,
        router=cluster.router if cluster is not None else None,
        partitions=(lambda: cluster.node.partitions) if cluster is not None else lambda: 1,
    )
    listing: Listing = cluster.listing if cluster is not None else service
    documents = Documents()
    resources: dict[str, Any] = {
        PROFILES_PATH: Profiles(service, clock, dispatch, listing),
        PROFILES_PATH + "/{uid}": Profile(service, clock, dispatch),
        SEARCH_PATH: Search(service, clock, dispatch),
        CHANGES_PATH: Changes(feed, clock),
        IMPORT_PATH: Imports(service, clock, dispatch),
        "/api/openapi.json": OpenApi(documents),
        "/docs": Docs(documents),
        "/problems/{slug}": ProblemPage(),
        "/metadata": Metadata(members),
        "/metadata/stores/{store}": StoreMetadata(members),
        "/metadata/stores/{store}/key/{key}": KeyMetadata(members, service.email_key),
        "/stores/{store}/approximate-num-entries": ApproximateNumEntries(counts),
        "/livez": Livez(node),
        "/readyz": Readyz(node),
        "/metrics": MetricsPage(metrics),
        "/quarantine": Quarantine(node),
    }
    return Entry(
        api=create_falcon(
            resources,
            clock=clock,
            metrics=metrics,
            get_view=(lambda: cluster.node.view) if cluster is not None else lambda: NOWHERE,
        ),
        fast_path=FastPath(service),
        clock=clock,
        metrics=metrics,
        request_timeout_s=request_timeout_s,
        proxied_path=(
            ProxiedPath(cluster.batches, service.email_key, via=cluster.node.info.node_id) if cluster else None
        ),
        gate=cluster.gate if cluster is not None else None,
    )


def create_falcon(
    resources: dict[str, Any], *, clock: Clock, metrics: Metrics, get_view: Callable[[], ClusterView]
) -> App[Request, Response]:
    """Return the falcon application for resources by URI template, with our errors and none of falcon's defaults."""
    app = App(middleware=[_Observer(clock, metrics)])
    app.resp_options.default_media_type = None  # type: ignore[assignment]  # an empty body has no media type
    for template, resource in resources.items():
        app.add_route(template, resource)
    errors.install(app, {template: _allow(resource) for template, resource in resources.items()}, get_view)
    return app


class _Observer:
    """Puts the request's id on every answer and counts it. The only middleware: each costs every request something."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._monotonic = clock.monotonic
        self._observe = metrics.observe_request

    async def process_response(self, req: Request, resp: Response, _resource: object, _is_good: bool) -> None:
        scope = req.scope
        resp.set_header("X-Request-Id", scope[REQUEST_ID])
        method = req.method if req.method in _COUNTED else "other"
        self._observe(method, req.uri_template or "none", resp.status_code, self._monotonic() - scope[STARTED])


def _allow(resource: object) -> str:
    return ", ".join([method for method in _METHODS if hasattr(resource, "on_" + method.lower())] + ["OPTIONS"])
