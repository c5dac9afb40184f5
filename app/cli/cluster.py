"""`python -m app cluster`: who is in the cluster, who was refused, who has which partition and how far behind: as one
node tells it."""

import argparse
import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from app.config import AppConfig
from streams.errors import StreamsError

_TIMEOUT_S = 10.0


def show_cluster(config: AppConfig, options: argparse.Namespace) -> int:
    """Print the map that a running node knows; exit code 1 when a partition has no owner or a node is silent."""
    document = ask(options.url or config.local_url, "/metadata")
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        print(render(document))
    nodes, partitions = document["nodes"], document["partitions"]
    is_whole = all(one["owner"] is not None for one in partitions) and not any(one["suspected"] for one in nodes)
    return 0 if is_whole else 1


def render(document: Mapping[str, Any]) -> str:
    """Return the document of `/metadata` as text for people."""
    age = document["age_s"]
    changed = "" if age is None else f", known here for {age:.0f} s"
    lines = [f"generation {document['epoch']}{changed}"]
    lines += _table(
        ("node", "address", "role", "rack", "owns", "follows", ""),
        [
            (
                node["node_id"],
                node["address"],
                node["role"],
                node["rack"] or "-",
                _count(document, node, is_owner=True),
                _count(document, node, is_owner=False),
                "does not answer" if node["suspected"] else "",
            )
            for node in document["nodes"]
        ],
    )
    lines += [f"refused: {process}: {reason}" for process, reason in sorted(document["refused"].items())]
    lines.append("")
    lines += _table(
        ("partition", "owner", "followers (records behind)"),
        [
            (
                str(one["partition"]),
                one["owner"] or "nobody",
                ", ".join(_follower(instance) for instance in one["instances"] if instance["role"] != "owner") or "-",
            )
            for one in document["partitions"]
        ],
    )
    return "\n".join(lines)


def ask(url: str, path: str) -> Any:
    """Return the JSON document at *path* of the node at *url*. Raises StreamsError, or OSError when nobody answers."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise StreamsError(f"the node at {url} answered {response.status}")
        return json.loads(body)
    except (http.client.HTTPException, ValueError) as error:
        raise StreamsError(f"the node at {url} did not answer as expected: {error}") from error
    finally:
        connection.close()


def _count(document: Mapping[str, Any], node: Mapping[str, Any], *, is_owner: bool) -> str:
    instances = (instance for one in document["partitions"] for instance in one["instances"])
    return str(sum(one["node_id"] == node["node_id"] and (one["role"] == "owner") is is_owner for one in instances))


def _follower(instance: Mapping[str, Any]) -> str:
    lag = "?" if instance["lag"] is None else instance["lag"]
    return f"{instance['node_id']}{' warming' if instance['role'] == 'warming' else ''} ({lag})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
