"""Makes the typed stores of a sub-topology: for a task over its overlay, and for a query over what is committed."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from streams.processing.context import TaskMoment, TaskRecord
from streams.stores.base import Getter
from streams.stores.membership import MembershipStore
from streams.stores.overlay import OverlayStore
from streams.stores.sessions import SessionStore
from streams.stores.typed import KeyValueStore
from streams.stores.windows import WindowStore
from streams.topology.nodes import CurrentRecord, Moment
from streams.topology.stores import StoreKind, StoreSpec
from streams.topology.subtopology import SubTopology


class StoreView(Protocol):
    """The stores of a task as they were committed: bytes by store and key."""

    def getter(self, store: str) -> Getter:
        """Return the function that reads a row by key."""
        ...

    def scan(self, store: str, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Return the rows with start <= key < stop in the order of bytes."""
        ...


def overlay_of(view: StoreView, name: str) -> OverlayStore:
    """Return an empty overlay of one store of *view*."""
    return OverlayStore(name, view.getter(name), lambda start, stop: view.scan(name, start, stop))


def open_store(spec: StoreSpec, rows: OverlayStore, record: CurrentRecord, moment: Callable[[str], Moment]) -> Any:
    """Return the typed store of *spec*. *moment*: the time of that name of the task, for stores that forget by time."""
    if spec.kind is StoreKind.WINDOW:
        return WindowStore(spec, rows, record, moment(f"{spec.name}/observed"))
    if spec.kind is StoreKind.SESSION:
        return SessionStore(spec, rows, record, moment(f"{spec.name}/observed"))
    if spec.kind is StoreKind.MEMBERSHIP:
        return MembershipStore(spec, rows, record)
    return KeyValueStore(spec, rows, record)


def times_of(subtopology: SubTopology, view: StoreView) -> Mapping[str, int]:
    """Return the times of the task as they were committed."""
    name = subtopology.times_store
    if name is None:
        return {}
    times: KeyValueStore[str, int] = KeyValueStore(subtopology.stores[name], overlay_of(view, name), TaskRecord())
    return dict(times.all())


def committed_store(subtopology: SubTopology, name: str, view: StoreView) -> Any:
    """Return store *name* as it is committed, for one query: a KeyValueStore, WindowStore, SessionStore or
    MembershipStore whose writes go nowhere. On the thread of the caller, as far as *view* allows that. Raises
    KeyError for an unknown store."""
    times = times_of(subtopology, view)
    spec = subtopology.stores[name]
    return open_store(
        spec, overlay_of(view, name), TaskRecord(), lambda moment: TaskMoment(moment, times.get(moment, -1))
    )
