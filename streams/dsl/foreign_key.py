"""Joins of two tables by a key that lies in the rows of one of them."""

from collections.abc import Callable
from typing import Any

from streams.dsl.graph import TableRef
from streams.errors import TopologyError
from streams.serdes import Serde


def join_on_foreign_key(
    left: TableRef,
    right: TableRef,
    joiner: Callable[[Any, Any], Any],
    is_left: bool,
    on: Callable[[Any], Any],
    store: str | None,
    value: Serde[Any] | None,
    name: str | None,
) -> TableRef:
    """Return the rows of *left*, each with the row of *right* that its foreign key names."""
    raise TopologyError("joins by a foreign key are not there yet")
