"""Makes a topology of `streams` from a case, step by step with the DSL, as a user would write it.

Nothing here compares. Invariant: a step is one call of the DSL, and what the DSL cannot say is not done in another way
behind its back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from streams.dsl import (
    GlobalKTable,
    KGroupedTable,
    KStream,
    KTable,
    Processor,
    ProcessorContext,
    ProcessorRecord,
    StreamsBuilder,
    hopping,
    join_windows,
    session,
    sliding,
    tumbling,
    with_key,
)
from streams.serdes import DOUBLE, INTEGER, LONG, STRING, Serde
from streams.topology.subtopology import ProcessorTopology
from streams.topology.windows import Windows
from tests.golden import functions
from tests.golden.format import Case, Step, split_function
from tests.golden.functions import KEY, KEY_INSIDE, VALUE, Maker

SERDES: dict[str, Serde[Any]] = {"string": STRING, "long": LONG, "integer": INTEGER, "double": DOUBLE}


@dataclass(frozen=True)
class Node:
    """What a step made, and the types of its keys and values; `windowed` keys have `key` as the type inside."""

    what: Any
    key: str
    value: str
    is_windowed: bool = False


class TopologyMaker:
    """Follows the steps of one case. `topology` is what they make."""

    def __init__(self, case: Case) -> None:
        self._builder = StreamsBuilder("golden")
        self._nodes: dict[str, Node] = {}
        for step in case.topology:
            getattr(self, f"_{step.op}")(step)

    def build(self) -> ProcessorTopology:
        """Return the topology."""
        return self._builder.build()

    def _from(self, step: Step) -> Node:
        return self._nodes[step["from"]]

    def _put(self, step: Step, what: Any, key: str, value: str, *, is_windowed: bool = False) -> None:
        self._nodes[step["id"]] = Node(what, key, value, is_windowed)

    def _like(self, step: Step, what: Any, node: Node) -> None:
        self._put(step, what, node.key, node.value, is_windowed=node.is_windowed)

    def _stream(self, step: Step) -> None:
        key, value = step["key"], step["value"]
        self._put(step, self._builder.stream(step["topic"], key=SERDES[key], value=SERDES[value]), key, value)

    def _table(self, step: Step) -> None:
        key, value = step["key"], step["value"]
        made = self._builder.table(step["topic"], key=SERDES[key], value=SERDES[value], store=step.get("store"))
        self._put(step, made, key, value)

    def _global_table(self, step: Step) -> None:
        key, value = step["key"], step["value"]
        made = self._builder.global_table(step["topic"], key=SERDES[key], value=SERDES[value], store=step.get("store"))
        self._put(step, made, key, value)

    def _filter(self, step: Step, name: str = "filter") -> None:
        node = self._from(step)
        predicate = find(functions.PREDICATES, step["function"])
        stored = {"store": step["store"]} if "store" in step.members else {}
        self._like(step, getattr(node.what, name)(predicate, **stored), node)

    def _filter_not(self, step: Step) -> None:
        self._filter(step, "filter_not")

    def _map_values(self, step: Step) -> None:
        node = self._from(step)
        mapper = find(functions.VALUE_MAPPERS, step["function"])
        type_ = resolved(mapper.type, node)
        stored = {"store": step["store"]} if "store" in step.members else {}
        made = node.what.map_values_with_key(mapper.apply, value=SERDES[type_], **stored)
        self._put(step, made, node.key, type_, is_windowed=node.is_windowed)

    def _flat_map_values(self, step: Step) -> None:
        node = self._from(step)
        mapper = find(functions.FLAT_VALUE_MAPPERS, step["function"])
        made = node.what.flat_map_values(lambda value: mapper.apply(None, value), value=SERDES[mapper.type])
        self._put(step, made, node.key, mapper.type)

    def _map(self, step: Step) -> None:
        self._pairs(step, self._from(step).what.map, functions.MAPPERS)

    def _flat_map(self, step: Step) -> None:
        self._pairs(step, self._from(step).what.flat_map, functions.FLAT_MAPPERS)

    def _pairs(self, step: Step, method: Callable[..., Any], makers: dict[str, Maker]) -> None:
        node = self._from(step)
        mapper = find(makers, step["function"])
        key, value = resolved(mapper.key, node), resolved(mapper.value, node)
        self._put(step, method(mapper.apply, key=SERDES[key], value=SERDES[value]), key, value)

    def _select_key(self, step: Step) -> None:
        node = self._from(step)
        selector = find(functions.KEY_SELECTORS, step["function"])
        key = resolved(selector.type, node)
        self._put(step, node.what.select_key(selector.apply, key=SERDES[key]), key, node.value)

    def _merge(self, step: Step) -> None:
        node = self._from(step)
        self._like(step, node.what.merge(self._nodes[step["with"]].what), node)

    def _split(self, step: Step) -> None:
        node = self._from(step)
        branches = {one["id"]: find(functions.PREDICATES, one["function"]) for one in step["branches"]}
        for name, what in node.what.split(branches, default=step.get("default")).items():
            self._nodes[name] = Node(what, node.key, node.value)

    def _repartition(self, step: Step) -> None:
        node = self._from(step)
        self._like(step, node.what.repartition(name=step.get("name"), partitions=step.get("partitions")), node)

    def _to(self, step: Step) -> None:
        self._from(step).what.to(step["topic"])

    def _to_table(self, step: Step) -> None:
        node = self._from(step)
        self._like(step, node.what.to_table(store=step.get("store")), node)

    def _to_stream(self, step: Step) -> None:
        node = self._from(step)
        self._like(step, node.what.to_stream(), node)

    def _process(self, step: Step) -> None:
        node = self._from(step)
        kind, stored, forwarded = PROCESSORS[step["function"]]
        value = resolved(forwarded, node)
        store = self._builder.add_store(step["store"], key=STRING, value=SERDES[resolved(stored, node)])
        made = node.what.process(
            lambda: kind(store, step.get("interval_ms"), step.get("time", "stream")),
            stores=[store],
            key=SERDES[node.key],
            value=SERDES[value],
        )
        self._put(step, made, node.key, value)

    def _group_by_key(self, step: Step) -> None:
        node = self._from(step)
        self._like(step, node.what.group_by_key(), node)

    def _group_by(self, step: Step) -> None:
        node = self._from(step)
        selector = find(functions.KEY_SELECTORS, step["function"])
        key = resolved(selector.type, node)
        if isinstance(node.what, KTable):
            made: Any = node.what.group_by(
                lambda k, v: (selector.apply(k, v), v), key=SERDES[key], value=SERDES[node.value]
            )
        else:
            made = node.what.group_by(selector.apply, key=SERDES[key], value=SERDES[node.value])
        self._put(step, made, key, node.value)

    def _windowed_by(self, step: Step) -> None:
        node, grace = self._from(step), step["grace_ms"]
        made: Windows
        match step["window"]:
            case "tumbling":
                made = tumbling(step["size_ms"], grace_ms=grace)
            case "hopping":
                made = hopping(step["size_ms"], advance_ms=step["advance_ms"], grace_ms=grace)
            case "sliding":
                made = sliding(step["difference_ms"], grace_ms=grace)
            case "session":
                made = session(step["gap_ms"], grace_ms=grace)
            case unknown:
                raise ValueError(f"no window {unknown!r}")
        self._put(step, node.what.windowed_by(made), node.key, node.value, is_windowed=True)

    def _count(self, step: Step) -> None:
        node = self._from(step)
        self._put(step, node.what.count(**_stored(step)), node.key, "long", is_windowed=node.is_windowed)

    def _reduce(self, step: Step) -> None:
        node = self._from(step)
        used = [find(functions.REDUCERS, step[name]) for name in ("function", "subtractor") if name in step.members]
        self._like(step, node.what.reduce(*used, **_stored(step)), node)

    def _aggregate(self, step: Step) -> None:
        node = self._from(step)
        adder = find(functions.AGGREGATORS, step["function"])
        options: dict[str, Any] = {**_stored(step), "value": SERDES[adder.type]}
        used = [adder.apply]
        if isinstance(node.what, KGroupedTable):
            used.append(find(functions.AGGREGATORS, step["subtractor"]).apply)
        elif node.is_windowed:
            options["merger"] = lambda _, a, b: adder.merge(a, b)
        made = node.what.aggregate(lambda: adder.initial, *used, **options)
        self._put(step, made, node.key, adder.type, is_windowed=node.is_windowed)

    def _suppress(self, step: Step) -> None:
        node = self._from(step)
        if step["until"] == "window_closes":
            made = node.what.suppress(until_window_closes=True)
        else:
            made = node.what.suppress(time_limit_ms=step["wait_ms"], max_records=step.get("max_records"))
        self._like(step, made, node)

    def _join(self, step: Step) -> None:
        self._any_join(step, "join")

    def _left_join(self, step: Step) -> None:
        self._any_join(step, "left_join")

    def _outer_join(self, step: Step) -> None:
        self._any_join(step, "outer_join")

    def _any_join(self, step: Step, method: str) -> None:
        left, right = self._from(step), self._nodes[step["with"]]
        joiner = find(functions.JOINERS, step["function"])
        value = {KEY: left.value, VALUE: right.value}.get(joiner.type, joiner.type)
        if joiner.needs_key:
            join: Callable[..., Any] = with_key(joiner.apply)
        else:
            join = partial(joiner.apply, None)
        options: dict[str, Any] = {"value": SERDES[value]}
        if isinstance(right.what, GlobalKTable):
            options["on"] = find(functions.KEY_SELECTORS, step["key_function"]).apply
        elif isinstance(left.what, KTable):
            options |= _stored(step)
            if "foreign_key" in step.members:
                selector = find(functions.KEY_SELECTORS, step["foreign_key"])
                options["on"] = lambda row: selector.apply(None, row)
        elif isinstance(right.what, KStream):
            options["windows"] = join_windows(
                before_ms=step["before_ms"], after_ms=step["after_ms"], grace_ms=step["grace_ms"]
            )
        made = getattr(left.what, method)(right.what, join, **options)
        self._put(step, made, left.key, value, is_windowed=left.is_windowed)


def find(makers: dict[str, Maker], text: str) -> Any:
    """Return the function that a case names."""
    name, argument = split_function(text)
    return makers[name](argument)


def resolved(type_: str, node: Node) -> str:
    """Return the type of a result: as it stands, or the one of the node's keys or values."""
    return {KEY: node.key, KEY_INSIDE: node.key, VALUE: node.value}.get(type_, type_)


def _stored(step: Step) -> dict[str, Any]:
    return {name: step[name] for name in ("store", "retention_ms") if name in step.members}


class _GoldenProcessor(Processor[Any, Any, Any, Any]):
    def __init__(self, store: str, interval_ms: int | None, time: str) -> None:
        self._name, self._interval_ms, self._time = store, interval_ms, time

    def init(self, context: ProcessorContext[Any, Any]) -> None:
        super().init(context)
        self.store = context.store(self._name)
        if self._interval_ms is not None:
            context.schedule(self._interval_ms, self.punctuate, time=self._time)

    def punctuate(self, time_ms: int) -> None:
        raise NotImplementedError


class FirstOfKey(_GoldenProcessor):
    """`first_of_key` of README.md."""

    def process(self, record: ProcessorRecord[Any, Any]) -> None:
        if self.store.get(record.key) is None:
            self.context.forward(record.key, record.value)
        self.store.put(record.key, record.value)


class BufferUntilPunctuated(_GoldenProcessor):
    """`buffer_until_punctuated` of README.md."""

    def process(self, record: ProcessorRecord[Any, Any]) -> None:
        self.store.put(record.key, record.value)

    def punctuate(self, time_ms: int) -> None:
        for key, value in list(self.store.all()):
            self.context.forward(key, value, timestamp_ms=time_ms)
            self.store.delete(key)


class NotePunctuations(_GoldenProcessor):
    """`note_punctuations` of README.md."""

    def process(self, record: ProcessorRecord[Any, Any]) -> None:
        pass

    def punctuate(self, time_ms: int) -> None:
        number = (self.store.get("count") or 0) + 1
        self.store.put("count", number)
        self.context.forward("punctuated", f"{time_ms}#{number}", timestamp_ms=time_ms)


# The processor, the type of what it stores and of what it forwards.
PROCESSORS: dict[str, tuple[Callable[..., _GoldenProcessor], str, str]] = {
    "first_of_key": (FirstOfKey, VALUE, VALUE),
    "buffer_until_punctuated": (BufferUntilPunctuated, VALUE, VALUE),
    "note_punctuations": (NotePunctuations, "long", "string"),
}
