"""The assignor of `streams.assignment` as kafka-python wants one, and what members and leader send each other.

Invariant: whatever bytes a member sends, the leader's join goes on. What cannot be understood is refused by name, in
the map that everybody gets. All data is compressed: a group is kept in one record of the broker, 1 MB at most.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor, RebalanceProtocol
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

from streams.assignment import Joining, assign
from streams.cluster import NOWHERE, ClusterView, Member, NodeInfo, refusal_key

#: Of what members say. A member that speaks another version is refused.
PROTOCOL_VERSION = 1
#: Neither ever comes near; larger is an error or an attack.
_MAX_DATA_BYTES = 4 * 1024 * 1024
_MAX_TEXT = 1024
_MAX_NUMBER = 2**63


class GroupAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # kafka-python ships no types
    """One member's assignor. kafka-python calls it on the consumer's network thread; `view`, `forget` and `insist` are
    for the membership's own thread, which waits meanwhile or finds immutable values."""

    name = "streams"

    def __init__(self, member: Member, topic: str, *, generation: Callable[[], int]) -> None:
        """*generation* returns the one of the join under way, which a leader does not learn otherwise."""
        self._member = member
        self._topic = topic
        self._get_generation = generation
        self._owned: frozenset[int] = frozenset()
        self._generation = -1
        self._requests = 0
        self.view: ClusterView = NOWHERE

    def supported_protocols(self) -> list[RebalanceProtocol]:
        return [RebalanceProtocol.COOPERATIVE]

    def metadata(self, topics: set[str]) -> ConsumerProtocolSubscription:
        """Return what this member says of itself in the join that begins now."""
        info = self._member.info
        joining = Joining(
            member_id="",
            info=info,
            num_standby_replicas=self._member.num_standby_replicas,
            settings=self._member.settings,
            positions=self._member.positions(),
            owned=self._owned,
            followed=self.view.followed_by(info.node_id),
            generation=self._generation,
            was_refused=self.view.refusal_of(info) is not None,
        )
        return ConsumerProtocolSubscription(
            version=1, topics=sorted(topics), user_data=encode_joining(joining, self._requests), owned_partitions=[]
        )

    def assign(self, cluster: Any, members: Sequence[Any]) -> dict[str, ConsumerProtocolAssignment]:
        """Called on the leader: divide the partitions among *members*."""
        joining: list[Joining] = []
        refused: dict[str, str] = {}
        for member in members:
            try:
                joining.append(decode_joining(member.member_id, member.metadata.user_data))
            except NotUnderstoodError as error:
                refused[error.key] = str(error)
        # Without metadata of the topic (it is asked for before each first join) the last count is still right.
        partitions = len(cluster.partitions_for_topic(self._topic) or self.view.placements)
        division = assign(joining, partitions, epoch=self._get_generation(), refused=refused)
        data = encode_view(division.view)
        return {
            member.member_id: ConsumerProtocolAssignment(
                1, [(self._topic, sorted(owned))] if (owned := division.owned.get(member.member_id)) else [], data
            )
            for member in members
        }

    def lead(self, perform: Callable[..., Any], leader_id: str, protocol: str, members: Sequence[Any]) -> Any:
        """Call *perform*, which is kafka-python's, without the members that it could not decode: it would raise, and
        then the leader would join again without end. The broker gives them nothing."""
        return perform(leader_id, protocol, [member for member in members if _is_subscription(member.metadata)])

    def on_assignment(self, assignment: ConsumerProtocolAssignment, generation: int) -> None:
        """Called on every member when a join has completed, before anything is revoked."""
        self._owned = frozenset(partition.partition for partition in assignment.partitions())
        self._generation = generation
        try:
            self.view = replace(decode_view(assignment.user_data), epoch=generation)
        except ValueError:
            self.view = NOWHERE  # The leader is none of ours.

    def forget(self) -> None:
        """Claim nothing any more: the group went on without this member."""
        self._owned = frozenset()

    def insist(self) -> None:
        """Say something new in the next join: the broker ignores a member that joins a stable group and only repeats
        what it said before."""
        self._requests += 1


class NotUnderstoodError(ValueError):
    """What a member said is no `Joining`. `key` names the member in `ClusterView.refused`."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key


def encode_joining(joining: Joining, requests: int) -> bytes:
    """Return what a member says of itself. *requests* only makes it differ from what it said before."""
    positions = sorted(joining.positions.items())
    document = {
        "version": PROTOCOL_VERSION,
        "node": asdict(joining.info),
        "num_standby_replicas": joining.num_standby_replicas,
        "settings": dict(joining.settings),
        "positions": [[partition for partition, _ in positions], [position for _, position in positions]],
        "owned": sorted(joining.owned),
        "followed": sorted(joining.followed),
        "generation": joining.generation,
        "was_refused": joining.was_refused,
        "requests": requests,
    }
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode())


def decode_joining(member_id: str, data: bytes | None) -> Joining:
    """Return what `encode_joining` was called on. Raises NotUnderstoodError, and nothing else, for any other bytes."""
    key = member_id
    try:
        document = _mapping(json.loads(_decompress(data)))
        info = _node(document["node"])
        key = refusal_key(info)
        _check_version(document["version"])
        partitions, positions = document["positions"]
        return Joining(
            member_id=member_id,
            info=info,
            num_standby_replicas=_number(document["num_standby_replicas"]),
            settings=_texts(document["settings"]),
            positions=dict(zip(map(_number, partitions), map(_number, positions), strict=True)),
            owned=frozenset(map(_number, document["owned"])),
            followed=frozenset(map(_number, document["followed"])),
            generation=_number(document["generation"], least=-1),
            was_refused=document["was_refused"] is True,
        )
    except (ValueError, TypeError, KeyError, RecursionError, zlib.error) as error:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise NotUnderstoodError(key, f"what it says of itself is not understood: {reason:.200}") from error


def encode_view(view: ClusterView) -> bytes:
    """Return *view* as the leader sends it."""
    return zlib.compress(view.encode())


def decode_view(data: bytes | None) -> ClusterView:
    """Return what `encode_view` was called on. Raises ValueError, and nothing else, for any other bytes."""
    try:
        return ClusterView.decode(_decompress(data))
    except zlib.error as error:
        raise ValueError(f"not a view of a cluster: {error}") from error


def view_of_assignment(data: bytes) -> ClusterView | None:
    """Return the map in a member's encoded assignment, None if there is none that can be read."""
    try:
        return decode_view(ConsumerProtocolAssignment.decode(data).user_data)
    except Exception:  # noqa: BLE001  # kafka-python's decoder raises whatever the bytes make it.
        return None


def _is_subscription(data: bytes) -> bool:
    try:
        subscription = ConsumerProtocolSubscription.decode(data)
        return all(isinstance(topic, str) for topic in subscription.topics)
    except Exception:  # noqa: BLE001  # As above.
        return False


def _decompress(data: bytes | None) -> bytes:
    if not data:
        raise ValueError("it says nothing")
    inflater = zlib.decompressobj()
    found = inflater.decompress(data, _MAX_DATA_BYTES)
    if not inflater.eof:
        raise ValueError("it is cut off or too long")
    return found


def _node(value: Any) -> NodeInfo:
    info = NodeInfo(**_texts(value))
    if not info.node_id:
        raise ValueError("it has no node id")
    return info


def _check_version(value: Any) -> None:
    if value != PROTOCOL_VERSION:
        raise ValueError(f"it speaks version {value!r:.40} of the protocol, not {PROTOCOL_VERSION}")


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is no object")  # noqa: TRY004  # The error is in the data, not in a call.
    return value


def _texts(value: Any) -> dict[str, str]:
    texts = dict(_mapping(value))
    if not all(isinstance(text, str) and len(text) <= _MAX_TEXT for text in texts.values()):
        raise ValueError("a text is none, or too long")
    return texts


def _number(value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value < _MAX_NUMBER:
        raise ValueError(f"{value!r:.40} is no number that is possible here")
    return value
