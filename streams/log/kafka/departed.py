"""Ends the transactions that nodes left open which are gone, and those that this node left under another id, so that
nobody waits for their time-out.

Only a matter of speed: whoever takes a partition over waits in any case until every transaction that touches it is
decided. Without this that lasts until the broker gives the transaction up, which is a session timeout and more after
the node was killed. A live node that is fenced here by mistake initialises its producer again and goes on.
"""

import logging
import threading
from collections.abc import Callable, Collection

from kafka import KafkaProducer

from streams.clock import Clock, Deadline
from streams.errors import LogUnavailable
from streams.log.kafka.clients import open_client
from streams.log.kafka.identities import TransactionalIds, owner_of
from streams.log.kafka.settings import KafkaSettings, producer_config
from streams.log.kafka.topics import Topics
from streams.records import TopicPartition

logger = logging.getLogger(__name__)

_LOOK_S = 5.0
_FENCE_S = 5.0


class Departed:
    """Fences the producers of nodes that are not in the group any more, in the background."""

    def __init__(
        self, settings: KafkaSettings, topics: Topics, *, live_nodes: Callable[[], Collection[str]], clock: Clock
    ) -> None:
        """*live_nodes* returns the ids of all members of the group as this node knows it; any thread may call it."""
        #: Under which this node writes.
        self.ids = TransactionalIds(settings.transactional_id, self.end)
        self._settings = settings
        self._topics = topics
        self._live_nodes = live_nodes
        self._clock = clock
        self._looked_at = -1

    def fence(self, partitions: Collection[TopicPartition], generation: int) -> None:
        """Look for who left a transaction open in *partitions*, once for each *generation*; returns at once. Errors are
        logged: the broker's time-out does the rest."""
        if generation == self._looked_at:
            return
        self._looked_at = generation
        threading.Thread(target=self._fence, args=(partitions,), name="kafka-fence-departed", daemon=True).start()

    def _fence(self, partitions: Collection[TopicPartition]) -> None:
        prefix = f"{self._settings.application_id}-"
        live = frozenset(self._live_nodes())
        if not live:
            return  # The group is not known: nobody can be said to have left it.
        try:
            ids = self._topics.open_transactions(partitions, Deadline.after(_LOOK_S, self._clock))
        except LogUnavailable as error:
            logger.warning("open transactions not looked for", extra={"reason": str(error)})
            return
        for transactional_id in ids:
            node_id = owner_of(transactional_id, prefix)
            is_left = node_id == self._settings.node_id and transactional_id != self.ids.current
            if is_left or (node_id is not None and node_id not in live):
                self.end(transactional_id)

    def end(self, transactional_id: str) -> None:
        """Have the transaction that nobody ends under *transactional_id* ended; returns at once."""
        logger.info("transaction that was left open ended", extra={"transactional_id": transactional_id})
        threading.Thread(target=self._end, args=(transactional_id,), name="kafka-fence", daemon=True).start()

    def _end(self, transactional_id: str) -> None:
        config = producer_config(self._settings) | {"transactional_id": transactional_id}
        config["bootstrap_timeout_ms"] = round(_FENCE_S * 1000)
        try:
            producer = open_client(KafkaProducer, config)
        except Exception as error:  # noqa: BLE001  # A daemon thread of best effort.
            logger.warning("departed node not fenced", extra={"reason": f"{type(error).__name__}: {error}"})
            return
        try:
            producer.init_transactions()
        except Exception as error:  # noqa: BLE001  # As above.
            logger.warning("departed node not fenced", extra={"reason": f"{type(error).__name__}: {error}"})
        finally:
            producer.close(timeout=1)
