"""Reads cases and expected files into typed values. What the members mean stands in README.md.

Nothing here knows `streams`: a binding to another library could use it as it is. The standard library is enough.
Invariant: what cannot be read exactly as README.md says raises, so that no part of a case is left out silently.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CASES = HERE / "cases"
EXPECTED = HERE / "expected"
CORPUS = HERE / "corpus"
DRIVER = HERE / "driver"
KAFKA_STREAMS_VERSION = "4.3.0"

Scalar = str | int | float | None


@dataclass(frozen=True)
class Step:
    """One operation of a topology and its members, by the names of README.md."""

    op: str
    members: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.members[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.members.get(name, default)


@dataclass(frozen=True)
class Config:
    """How the topology runs; the defaults are those of README.md."""

    optimize: bool = False
    on_bad_record: str = "fail"
    on_processing_error: str = "fail"


@dataclass(frozen=True)
class InputRecord:
    """A record to pipe in. `key_hex` and `value_hex` are raw bytes that take the place of `key` and `value`."""

    topic: str
    timestamp: int
    key: Scalar = None
    value: Scalar = None
    key_hex: str | None = None
    value_hex: str | None = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True)
class AdvanceWallClock:
    """The wall clock moves on by so many ms."""

    advance_wall_clock_ms: int


@dataclass(frozen=True)
class StoreRead:
    """A read of a store after all input; `arguments` are the members besides `store` and `read`."""

    store: str
    read: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """A topology with its input. `sha256` is the hash of the file."""

    name: str
    description: str
    config: Config
    topology: tuple[Step, ...]
    input: tuple[InputRecord | AdvanceWallClock, ...]
    stores: tuple[StoreRead, ...]
    sha256: str


@dataclass(frozen=True)
class OutputRecord:
    """A record of an output topic. `window` is start and end of a windowed key, in ms."""

    key: Scalar
    value: Scalar
    timestamp: int
    window: tuple[int, int] | None = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True)
class ExpectedStep:
    """What one input made: records by topic in their order, how many were dropped, or the error that ended the run."""

    outputs: Mapping[str, tuple[OutputRecord, ...]]
    dropped: int
    error: str | None


@dataclass(frozen=True)
class StoreEntry:
    """An entry of a store. `timestamp` is None for stores that keep none."""

    key: Scalar
    value: Scalar
    window: tuple[int, int] | None = None
    timestamp: int | None = None


@dataclass(frozen=True)
class Types:
    """The types of a topic, by the names of README.md."""

    key: str
    value: str


@dataclass(frozen=True)
class Expected:
    """What Kafka Streams made of a case. With `topology_error` the rest is empty."""

    case_sha256: str
    kafka_streams: str
    topics: Mapping[str, Types]
    repartition_topics: int
    steps: tuple[ExpectedStep, ...]
    stores: tuple[tuple[StoreRead, tuple[StoreEntry, ...]], ...]
    topology_error: str | None


def case_names() -> list[str]:
    """Return the names of all cases, sorted."""
    return sorted(path.stem for path in CASES.glob("*.json"))


def load_case(name: str) -> Case:
    """Return the case *name*. Raises ValueError for members that nobody knows."""
    content = (CASES / f"{name}.json").read_bytes()
    data = _known(json.loads(content), {"description", "config", "topology", "input", "stores"})
    return Case(
        name=name,
        description=data["description"],
        config=_made(Config, data.get("config", {})),
        topology=tuple(Step(step["op"], {k: v for k, v in step.items() if k != "op"}) for step in data["topology"]),
        input=tuple(_input(one) for one in data["input"]),
        stores=tuple(_read(one) for one in data.get("stores", [])),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def load_expected(name: str) -> Expected:
    """Return what Kafka Streams made of the case *name*. Raises ValueError for members that nobody knows."""
    members = {field.name for field in fields(Expected)}
    data = _known(json.loads((EXPECTED / f"{name}.json").read_text()), members)
    return Expected(
        case_sha256=data["case_sha256"],
        kafka_streams=data["kafka_streams"],
        topics={topic: _made(Types, types) for topic, types in data.get("topics", {}).items()},
        repartition_topics=data.get("repartition_topics", 0),
        steps=tuple(_step(one) for one in data.get("steps", [])),
        stores=tuple(_stored(one) for one in data.get("stores", [])),
        topology_error=data.get("topology_error"),
    )


def load_corpus(name: str) -> list[dict[str, Any]]:
    """Return the entries of `expected/partitions.json` or `expected/serdes.json`."""
    entries: list[dict[str, Any]] = json.loads((EXPECTED / f"{name}.json").read_text())["entries"]
    return entries


def load_vocabulary() -> dict[str, Any]:
    """Return `expected/driver.json`: the operations, functions and reads that the driver in Java knows."""
    vocabulary: dict[str, Any] = json.loads((EXPECTED / "driver.json").read_text())
    return vocabulary


def driver_sources() -> list[Path]:
    """Return the sources of the driver in Java, in the order of their names."""
    return sorted(DRIVER.glob("*.java"))


def driver_sha256() -> str:
    """Return the hash over names and contents of the driver's sources."""
    digest = hashlib.sha256()
    for path in driver_sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def split_function(text: str) -> tuple[str, str | None]:
    """Return name and argument of a function as cases write it: `append !` is `append` and `!`."""
    name, blank, argument = text.partition(" ")
    return name, argument if blank else None


def _known(data: dict[str, Any], members: set[str]) -> dict[str, Any]:
    if unknown := data.keys() - members:
        raise ValueError(f"unknown members {sorted(unknown)}")
    return data


def _made(kind: Any, data: dict[str, Any]) -> Any:
    """Return a value of the dataclass *kind* from members of the same names; lists become tuples."""
    _known(data, {field.name for field in fields(kind)})
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})


def _input(data: dict[str, Any]) -> InputRecord | AdvanceWallClock:
    made: InputRecord | AdvanceWallClock = _made(
        AdvanceWallClock if "advance_wall_clock_ms" in data else InputRecord, data
    )
    return made


def _read(data: dict[str, Any]) -> StoreRead:
    arguments = {name: value for name, value in data.items() if name not in ("store", "read", "result")}
    return StoreRead(data["store"], data["read"], arguments)


def _step(data: dict[str, Any]) -> ExpectedStep:
    _known(data, {"outputs", "dropped", "error"})
    outputs = {
        topic: tuple(_made(OutputRecord, record) for record in records)
        for topic, records in data.get("outputs", {}).items()
    }
    return ExpectedStep(outputs, data.get("dropped", 0), data.get("error"))


def _stored(data: dict[str, Any]) -> tuple[StoreRead, tuple[StoreEntry, ...]]:
    return _read(data), tuple(_made(StoreEntry, entry) for entry in data["result"])
