"""`/metadata`: which nodes hold which partitions of which store, and which hold a key. It decides nothing.

A key is looked at for its partition alone; it is not in the answer, since it may be an e-mail.
"""

from collections.abc import Callable
from typing import Any

import orjson
from falcon.asgi import Request, Response

from app.cluster.ports import Members
from app.http.problems import Problem
from app.http.profiles import MEDIA_JSON
from app.profiles.topics import PROFILE_STORE, REQUEST_STORE, SEARCH_STORE
from streams.cluster import NOWHERE
from streams.partitioner import partition_for
from streams.queries import metadata

STORES = (PROFILE_STORE, SEARCH_STORE, REQUEST_STORE)


class Metadata:
    """The whole map. `age_s`: for how long this node has known it, null while it knows none. `refused`: why a process,
    by node id and incarnation, was given nothing when the map was made."""

    def __init__(self, members: Members) -> None:
        self._members = members

    async def on_get(self, _req: Request, resp: Response) -> None:
        node = self._members.node
        view = node.view
        _answer(
            resp,
            {
                "epoch": view.epoch,
                "age_s": None if view is NOWHERE else round(node.view_age_s, 1),
                "nodes": metadata.nodes(view, _is_suspected(self._members)),
                "refused": dict(view.refused),
                "stores": STORES,
                "partitions": _partitions(self._members, None),
            },
        )

    on_head = on_get


class StoreMetadata:
    """Where the partitions of one store are; the stores of a partition are together."""

    def __init__(self, members: Members) -> None:
        self._members = members

    async def on_get(self, _req: Request, resp: Response, store: str) -> None:
        _answer(resp, {"store": _known(store), "partitions": _partitions(self._members, None)})

    on_head = on_get


class KeyMetadata:
    """Where one key of a store is, whether or not there is a row for it."""

    def __init__(self, members: Members, email_key: Callable[[str], bytes]) -> None:
        self._members = members
        self._email_key = email_key

    async def on_get(self, _req: Request, resp: Response, store: str, key: str) -> None:
        name = self._email_key(key) if _known(store) == SEARCH_STORE else key.encode()
        partition = partition_for(name, self._members.node.partitions)
        (found,) = _partitions(self._members, partition)
        _answer(resp, {"store": store, "partition": partition, "instances": found["instances"]})

    on_head = on_get


def _partitions(members: Members, only: int | None) -> list[dict[str, Any]]:
    node = members.node
    numbers = range(node.partitions) if only is None else (only,)
    return metadata.partitions(node.view, numbers, members.positions_of, _is_suspected(members))


def _is_suspected(members: Members) -> Callable[[str], bool]:
    own_id = members.node.info.node_id  # which nobody pings
    return lambda node_id: node_id != own_id and members.is_suspected(node_id)


def _known(store: str) -> str:
    if store not in STORES:
        raise Problem(404, "there is no such store")
    return store


def _answer(resp: Response, document: dict[str, Any]) -> None:
    resp.content_type = MEDIA_JSON
    resp.set_header("Cache-Control", "no-store")
    resp.data = orjson.dumps(document)
