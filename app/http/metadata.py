"""`/metadata`: which nodes hold which partitions of which store, and which hold a key. It decides nothing.

A key is looked at for its partition alone; it is not in the answer, since it may be an e-mail.
"""

from collections.abc import Callable
from typing import Any

import orjson
from falcon.asgi import Request, Response

from app.cluster.assembly import Cluster
from app.http.problems import Problem
from app.http.profiles import MEDIA_JSON
from app.profiles.topics import PROFILE_STORE, REQUEST_STORE, SEARCH_STORE
from streams.cluster import NOWHERE
from streams.partitioner import partition_for
from streams.queries import metadata

STORES = (PROFILE_STORE, SEARCH_STORE, REQUEST_STORE)


class Metadata:
    """The whole map. Without a *cluster* there is nobody in it."""

    def __init__(self, cluster: Cluster | None) -> None:
        self._cluster = cluster

    async def on_get(self, _req: Request, resp: Response) -> None:
        cluster = self._cluster
        view = cluster.node.view if cluster is not None else NOWHERE
        _answer(
            resp,
            {
                "epoch": view.epoch,
                "nodes": metadata.nodes(view, _is_suspected(cluster)) if cluster is not None else [],
                "stores": STORES,
                "partitions": _partitions(cluster, None),
            },
        )

    on_head = on_get


class StoreMetadata:
    """Where the partitions of one store are; the stores of a partition are together."""

    def __init__(self, cluster: Cluster | None) -> None:
        self._cluster = cluster

    async def on_get(self, _req: Request, resp: Response, store: str) -> None:
        _answer(resp, {"store": _known(store), "partitions": _partitions(self._cluster, None)})

    on_head = on_get


class KeyMetadata:
    """Where one key of a store is, whether or not there is a row for it."""

    def __init__(self, cluster: Cluster | None, email_key: Callable[[str], bytes]) -> None:
        self._cluster = cluster
        self._email_key = email_key

    async def on_get(self, _req: Request, resp: Response, store: str, key: str) -> None:
        name = self._email_key(key) if _known(store) == SEARCH_STORE else key.encode()
        count = self._cluster.node.partitions if self._cluster is not None else 1
        partition = partition_for(name, count)
        found = _partitions(self._cluster, partition)
        _answer(resp, {"store": store, "partition": partition, "instances": found[0]["instances"] if found else []})

    on_head = on_get


def _partitions(cluster: Cluster | None, only: int | None) -> list[dict[str, Any]]:
    if cluster is None:
        return []
    numbers = range(cluster.node.partitions) if only is None else (only,)
    return metadata.partitions(cluster.node.view, numbers, cluster.positions_of, _is_suspected(cluster))


def _is_suspected(cluster: Cluster) -> Callable[[str], bool]:
    own_id = cluster.node.info.node_id  # which nobody pings
    return lambda node_id: node_id != own_id and cluster.peers.is_suspected(node_id)


def _known(store: str) -> str:
    if store not in STORES:
        raise Problem(404, "there is no such store")
    return store


def _answer(resp: Response, document: dict[str, Any]) -> None:
    resp.content_type = MEDIA_JSON
    resp.set_header("Cache-Control", "no-store")
    resp.data = orjson.dumps(document)
