"""The composition root: the only file that picks concrete classes. Settings go in, a node to be started comes out.

Nothing runs before `Assembly.start`; what is opened here (the state directory's lock, the embedded log) is closed by
`Assembly.stop`.
"""

import asyncio
import logging
import os
import signal
import uuid
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from app.cluster.assembly import Cluster, join
from app.cluster.attendance import Attendance
from app.cluster.handover import hand_over
from app.cluster.operations import read_operations
from app.cluster.ports import Members, only
from app.config import AppConfig
from app.feed.feed import Feed
from app.http.api import create_api
from app.http.entry import Entry
from app.observability.metrics import Metrics
from app.profiles.email import EmailPolicy
from app.profiles.events import RECORD_FORMAT
from app.profiles.ports import ProfileSettings
from app.profiles.remote_claims import ALONE, RemoteClaims, claim_operations
from app.profiles.service import ProfileService
from app.profiles.sweep import Sweep
from app.profiles.topics import COUNTED_STORES, TopicNames, topic_specs
from app.profiles.topology import STORE_FORMAT, build
from app.secrets import host_key, node_key
from streams.clock import Clock, Deadline, SystemClock
from streams.config import RuntimeConfig
from streams.errors import StreamsError
from streams.files import write_durably
from streams.http.gate import Operation, PeerGate
from streams.http.peers import HttpPeers
from streams.http.signing import Keys, derive_keys
from streams.lockfile import DirectoryLock
from streams.log.base import Log, TopicSpec
from streams.log.kafka import KafkaLog, KafkaSettings
from streams.log.local import LocalLog
from streams.queries.counts import Counts
from streams.queries.fanout import FanOut
from streams.runtime.asyncio_table import AsyncTable
from streams.runtime.node import StreamsNode
from streams.stores.base import StoreFactory
from streams.stores.rocksdb import RocksStoreFactory
from streams.topology.graph import Topology

logger = logging.getLogger(__name__)

DEFAULT_PARTITIONS = 8
_STORE_CACHE_BYTES = 32 * 1024 * 1024
_DELETE_RETENTION_MS = 48 * 3600 * 1000


class Assembly:
    """A node with everything around it."""

    def __init__(
        self,
        *,
        node: StreamsNode,
        api: Entry,
        metrics: Metrics,
        feed: Feed,
        clock: Clock,
        lock: DirectoryLock,
        attendance: Attendance | None,
        sweep: Sweep,
    ) -> None:
        self.node = node
        self.api = api
        self.feed = feed
        self.metrics = metrics
        self.clock = clock
        #: Why the node gave up, once it did.
        self.fatal_error: BaseException | None = None
        self._lock = lock
        self._attendance = attendance
        self._sweep = sweep

    def start(self) -> None:
        """Start the node in the background, and on the running event loop what watches the others."""
        self.node.start()
        self._sweep.start()
        if self._attendance is not None:
            self._attendance.start()

    async def hand_over(self) -> None:
        """Let the others take over while requests still come in; at once for a node that is alone, or cannot go on.
        Who listens to the change feed is sent on first: he would keep the node from stopping."""
        self.feed.drain()
        if self._attendance is not None and self.fatal_error is None:
            await hand_over(self.node, self.clock)

    async def stop(self, deadline: Deadline) -> None:
        """Drain, commit, leave, close, in this order; returns at *deadline* at the latest. Idempotent."""
        await self._sweep.stop()
        await self.feed.stop()
        await asyncio.to_thread(self.node.stop, deadline)
        if self._attendance is not None:
            await self._attendance.stop()
        self._lock.release()

    def give_up(self, error: BaseException) -> None:
        """The node cannot go on: end the process in order, and let whoever supervises it start another."""
        self.fatal_error = error
        trace = None if isinstance(error, StreamsError) else error  # our own errors say what to do
        logger.critical("the node gives up: %s", error, exc_info=trace)
        if self.node.thread.partitions:
            os.kill(os.getpid(), signal.SIGTERM)


def assemble(config: AppConfig, *, clock: Clock | None = None) -> Assembly:
    """Put a node together for *config*. Raises StreamsError for what only an operator can mend."""
    clock = clock or SystemClock()
    lock = lock_state_dir(config)
    try:
        return _assemble(config, clock, lock)
    except BaseException:
        lock.release()
        raise


def _assemble(config: AppConfig, clock: Clock, lock: DirectoryLock) -> Assembly:
    node_id = config.node_id or _kept(config.state_dir / "node-id", lambda: uuid.uuid4().hex)
    log = open_log(config, node_id=node_id, clock=clock)
    fatal: list[Assembly] = []
    node = StreamsNode(
        topology=topology_of(config),
        topics=topics_of(config),
        log=log,
        stores=open_stores(config, clock),
        config=RuntimeConfig(
            node_id=node_id,
            format_version=STORE_FORMAT,
            address=config.application_server,
            rack=config.rack,
            role=config.role,
            num_standby_replicas=config.num_standby_replicas,
            shared_settings=_shared_settings(config),
            max_queued_commands=config.max_queued_commands,
        ),
        clock=clock,
        on_fatal=lambda error: fatal[0].give_up(error),
    )
    metrics = Metrics(node=node, log_gauges=log.gauges, store_sizes=node.store_sizes)
    peers = None if config.is_embedded else _open_peers(config, node, clock)
    service = ProfileService(
        node=node,
        table=AsyncTable(node.table, clock),
        clock=clock,
        topics=TopicNames.prefixed(config.topic_prefix),
        random=os.urandom,
        settings=ProfileSettings(
            token_secret=_secret(config),
            email_policy=EmailPolicy(config.email_policy),
            is_if_match_required=config.require_if_match,
            idempotency_ttl_ms=config.idempotency_ttl_ms,
        ),
        owners=ALONE if peers is None else RemoteClaims(node=node, peers=peers, clock=clock),
    )
    metrics.watch_sweep(service.writes.sweep)
    fan_out = None if peers is None else FanOut(node=node, peers=peers, clock=clock)
    counts = Counts(node=node, stores=COUNTED_STORES, peers=peers, fan_out=fan_out)
    feed = _open_feed(config, log, node, service, metrics, clock)
    attendance, cluster = None, None
    if peers is not None and fan_out is not None:
        attendance, cluster = _join(config, node, peers, service, metrics, counts, fan_out, clock)
    assembly = Assembly(
        node=node,
        api=create_api(
            service=service,
            node=node,
            clock=clock,
            metrics=metrics,
            request_timeout_s=config.request_timeout_ms / 1000,
            random=os.urandom,
            members=only(node, node.positions)
            if attendance is None or peers is None
            else Members(node, attendance.positions_of, peers.is_suspected),
            feed=feed,
            cluster=cluster,
            counts=counts,
        ),
        metrics=metrics,
        feed=feed,
        clock=clock,
        lock=lock,
        attendance=attendance,
        sweep=service.writes.sweep,
    )
    fatal.append(assembly)
    return assembly


def _open_feed(
    config: AppConfig, log: Log, node: StreamsNode, service: ProfileService, metrics: Metrics, clock: Clock
) -> Feed:
    topic, limit = TopicNames.prefixed(config.topic_prefix).profiles, config.max_listeners
    feed = Feed(log=log, topic=topic, node=node, signer=lambda: service.tokens, clock=clock, max_listeners=limit)
    metrics.watch_feed(feed)
    return feed


def _open_peers(config: AppConfig, node: StreamsNode, clock: Clock) -> HttpPeers:
    return HttpPeers(node=node.info, keys=_keys(config), clock=clock, offer_view=node.offer_view)


def _join(
    config: AppConfig,
    node: StreamsNode,
    peers: HttpPeers,
    service: ProfileService,
    metrics: Metrics,
    counts: Counts,
    fan_out: FanOut,
    clock: Clock,
) -> tuple[Attendance, Cluster]:
    """Put together what this node needs to be one of several."""
    attendance = Attendance(node=node, peers=peers, own_positions=node.positions, clock=clock)
    operations = {
        **read_operations(service.reads),
        **claim_operations(service.writes.settlement),
        **counts.operations(),
    }
    gate = PeerGate(
        node=node.info,
        keys=_keys(config),
        clock=clock,
        get_view=lambda: node.view,
        get_positions=node.positions,
        operations={name: Operation(run) for name, run in operations.items()},
    )
    metrics.watch_peers(node.node_id, peers, gate)
    cluster = join(node=node, peers=peers, gate=gate, reads=service.reads, fan_out=fan_out, clock=clock)
    return attendance, cluster


def _keys(config: AppConfig) -> Keys:
    return derive_keys(
        _secret(config),
        application_id=config.application_id,
        own_address=config.application_server,
    )


def lock_state_dir(config: AppConfig) -> DirectoryLock:
    """Create the state directory and take its lock, noting our address in it. Raises LogLocked naming the holder."""
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = DirectoryLock(config.state_dir, note=config.local_url)
    lock.acquire()
    return lock


def open_log(config: AppConfig, *, node_id: str, clock: Clock) -> Log:
    """Open the log that *config* asks for."""
    if config.is_embedded:
        return LocalLog(config.state_dir / "log", clock=clock)
    settings = KafkaSettings(
        bootstrap_servers=",".join(config.bootstrap_servers),
        application_id=config.application_id,
        node_id=node_id,
        session_timeout_ms=config.session_timeout_ms,
        client_overrides=config.kafka,
    )
    return KafkaLog(settings, clock=clock, state_dir=config.state_dir)


def open_stores(config: AppConfig, clock: Clock) -> StoreFactory:
    """Return the state stores below the state directory.

    A store that was last caught up longer ago than half of the tombstones' retention is rebuilt, also on the embedded
    log: it may be an old copy that was put back, and the deletes since may be gone from the log.
    """
    return RocksStoreFactory(
        config.state_dir, cache_bytes=_STORE_CACHE_BYTES, max_age_ms=_DELETE_RETENTION_MS // 2, clock=clock
    )


def topics_of(config: AppConfig) -> list[TopicSpec]:
    """Return what the topics must be under *config*."""
    return topic_specs(
        TopicNames.prefixed(config.topic_prefix),
        partitions=config.partitions,
        default_partitions=DEFAULT_PARTITIONS,
        replication_factor=config.replication_factor,
        idempotency_ttl_ms=config.idempotency_ttl_ms,
    )


def topology_of(config: AppConfig) -> Topology:
    """Return the profile topology over the topics of *config*."""
    return build(TopicNames.prefixed(config.topic_prefix), idempotency_ttl_ms=config.idempotency_ttl_ms)


def _shared_settings(config: AppConfig) -> dict[str, str]:
    """Return what must be the same on every node. The secret shows only whether it is."""
    return {
        "PROFILES_CLUSTER_SECRET": sha256(b"profiles shared settings " + _secret(config)).hexdigest()[:16],
        "PROFILES_EMAIL_POLICY": config.email_policy,
        "PROFILES_IDEMPOTENCY_TTL_MS": str(config.idempotency_ttl_ms),
        "PROFILES_TOPIC_PREFIX": config.topic_prefix,
        "format of the records": str(RECORD_FORMAT),
    }


def _secret(config: AppConfig) -> bytes:
    """Return what calls between nodes, position tokens and cursors are signed with."""
    if config.cluster_secret is not None:
        return config.cluster_secret.encode()
    if config.is_embedded:
        return node_key(config.state_dir)
    return host_key(config.application_id, os.environ, state_dir=config.state_dir)


def _kept(path: Path, make: Callable[[], str]) -> str:
    """Return the text of *path*, making it once."""
    if path.exists() and (text := path.read_text().strip()):
        return text
    text = make()
    write_durably(path, text)
    return text
