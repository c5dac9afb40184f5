"""The three topics of the profile service: their names, what they are for, and the settings that they must have.

`profiles`: key uid, value the whole profile. `profile-emails`: key the e-mail's key, value `{uid, version, op}`.
`profile-requests`: key the hash of caller and Idempotency-Key, value what that create came to. All three have one
partition count, and the partition of each record is that of its task.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from streams.log.base import COMPACT, COMPACT_DELETE, TopicSpec

PROFILE_STORE = "profile.store"
SEARCH_STORE = "search.store"
REQUEST_STORE = "request.store"

#: Where in the space of keys one lies, from 0 to 1, of the stores whose keys are spread evenly: uids begin with 48
#: random bits (and a hyphen), the keys of requests are hashes. E-mails are not.
COUNTED_STORES: Mapping[str, Callable[[bytes], float] | None] = {
    PROFILE_STORE: lambda uid: int(uid[:8] + uid[9:13], 16) / (1 << 48),
    SEARCH_STORE: None,
    REQUEST_STORE: lambda key: int.from_bytes(key[:6]) / (1 << 48),
}

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS


class TopicNames(NamedTuple):
    """The names of the topics, prefix included."""

    profiles: str
    emails: str
    requests: str

    @classmethod
    def prefixed(cls, prefix: str) -> "TopicNames":
        """Return the usual names, each with *prefix* before it."""
        return cls(f"{prefix}profiles", f"{prefix}profile-emails", f"{prefix}profile-requests")


def topic_specs(
    names: TopicNames,
    *,
    partitions: int | None,
    default_partitions: int,
    replication_factor: int | None,
    idempotency_ttl_ms: int,
) -> list[TopicSpec]:
    """Return what the topics must be. *partitions* None: whatever an existing topic has (see TopicSpec).

    `min.insync.replicas` is set where *replication_factor* is given: 2 of 3, so that one broker may fail.
    """
    settled: dict[str, str] = {
        # An unknown outcome is settled by looking for the event id in the log: nothing may be compacted before that.
        "min.compaction.lag.ms": str(10 * _MINUTE_MS),
        # The bound on how long the bytes of a deleted profile stay.
        "max.compaction.lag.ms": str(24 * _HOUR_MS),
        # A reader that is away for longer may miss tombstones; stores older than half of it are rebuilt.
        "delete.retention.ms": str(48 * _HOUR_MS),
    }
    if replication_factor is not None:
        settled["min.insync.replicas"] = str(max(1, replication_factor - 1))
    # Retention counts from the newest record of a segment, so an hour more is enough to keep the promise.
    requests = {"cleanup.policy": COMPACT_DELETE, "retention.ms": str(idempotency_ttl_ms + _HOUR_MS)}

    def spec(name: str, config: Mapping[str, str]) -> TopicSpec:
        return TopicSpec(
            name=name,
            config={**settled, **config},
            partitions=partitions,
            default_partitions=default_partitions,
            replication_factor=replication_factor,
        )

    return [
        spec(names.profiles, {"cleanup.policy": COMPACT}),
        spec(names.emails, {"cleanup.policy": COMPACT}),
        spec(names.requests, requests),
    ]
