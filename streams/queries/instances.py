"""Which instances of an application have which store and which key, as documents (Kafka Streams:
metadataForAllStreamsClients, streamsMetadataForStore, queryMetadataForKey). Event loop only; a hint of the moment.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from streams.clock import Deadline
from streams.cluster import NOWHERE
from streams.errors import Unavailable
from streams.queries import metadata
from streams.queries.reads import Channel, StoreReads

_PATIENCE_S = 1.0  # for what others tell of themselves; who is slower is shown without positions


async def instances(reads: StoreReads) -> dict[str, Any]:
    """Return all instances, with the partitions of each store that they own or follow, and the map of each
    sub-topology that has stores."""
    found: dict[str, dict[str, Any]] = {}
    maps = []
    for channel in reads.channels:
        if channel.subtopology.is_global:
            continue  # every instance has it whole
        view, stores = channel.node.view, _stores(reads, channel)
        for document in metadata.nodes(view, _is_suspected(channel)):
            node_id = document["node_id"]
            instance = found.setdefault(node_id, {**document, "active": {}, "standby": {}})
            instance["active"] |= dict.fromkeys(stores, sorted(view.owned_by(node_id)))
            instance["standby"] |= dict.fromkeys(stores, sorted(view.followed_by(node_id)))
        maps.append(
            {
                "subtopology": channel.subtopology.index,
                "stores": stores,
                "epoch": view.epoch,
                "age_s": None if view is NOWHERE else round(channel.node.view_age_s, 1),
                "refused": dict(view.refused),
                "partitions": await _partitions(channel, None),
            }
        )
    return {
        "instances": [found[node_id] for node_id in sorted(found)],
        "global_stores": [
            name for each in reads.channels if each.subtopology.is_global for name in _stores(reads, each)
        ],
        "subtopologies": maps,
    }


async def instances_of_store(reads: StoreReads, store: str) -> dict[str, Any]:
    """Return what *store* is and where its partitions are. Raises UnknownStore, Unavailable."""
    spec, channel = reads.spec(store), reads.channel(store)
    return {
        "store": store,
        "kind": spec.kind.value,
        "key": spec.key.name,
        "value": spec.value.name,
        "is_global": channel.subtopology.is_global,
        "partitions": await _partitions(channel, None),
    }


async def instances_of_key(reads: StoreReads, store: str, key: bytes) -> dict[str, Any]:
    """Return where *key* is, whether or not there is a row for it: by Kafka's default partitioner. Raises UnknownStore,
    Unavailable."""
    partition = reads.partition_of(store, key)
    (found,) = await _partitions(reads.channel(store), partition)
    return {"store": store, **found}


def _stores(reads: StoreReads, channel: Channel) -> list[str]:
    return [name for name in reads.stores if name in channel.stores]


async def _partitions(channel: Channel, only: int | None) -> list[dict[str, Any]]:
    node = channel.node
    view = node.view
    numbers = range(node.partitions) if only is None else (only,)
    told: dict[str, Mapping[int, int]] = {node.node_id: node.positions()}
    others = [node_id for node_id in view.nodes if node_id != node.node_id]
    if channel.ask_positions is not None and others:
        deadline = Deadline.after(_PATIENCE_S, channel.clock)
        answers = await asyncio.gather(*(_ask(channel, node_id, deadline) for node_id in others))
        told |= {node_id: answer for node_id, answer in zip(others, answers, strict=True) if answer is not None}
    return metadata.partitions(view, numbers, told.get, _is_suspected(channel))


async def _ask(channel: Channel, node_id: str, deadline: Deadline) -> Mapping[int, int] | None:
    assert channel.ask_positions is not None
    try:
        return await channel.ask_positions(node_id, deadline)
    except (Unavailable, ValueError):
        return None


def _is_suspected(channel: Channel) -> metadata.IsSuspected:
    own_id, peers = channel.node.node_id, channel.peers
    return lambda node_id: node_id != own_id and peers is not None and peers.is_suspected(node_id)
