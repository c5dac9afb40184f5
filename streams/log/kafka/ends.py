"""How current a reader is, learned from the fetches that it makes anyway: no request of its own.

Each fetch response tells the end (the last stable offset) of the partitions that it names; in a fetch session it leaves
out those of which nothing has changed (KIP-227). It tells the state of the log at some moment after the request was
sent, so that moment is what counts: a response that a stopped process finds in its socket proves nothing newer.

This wraps two methods of kafka-python's fetcher, which is not a public class: the release is pinned to 3.0.x, and
`tests/kafka/test_reader.py` fails when their shape changes.
"""

import math
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from kafka.errors import KafkaConfigurationError

from streams.clock import Clock
from streams.records import TopicPartition

#: Ends of one partition that were told and not reached yet; beyond that the oldest are forgotten.
_MAX_MARKS = 64


class Ends:
    """What was told of each partition's end, and when. Any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[TopicPartition, int] = {}  # the last end
        self._marks: dict[TopicPartition, deque[tuple[int, float]]] = {}  # ends that were not reached yet
        self._reached: dict[TopicPartition, float] = {}

    def reached_at(self, partition: TopicPartition, position: int) -> float:
        """Return the latest moment of which is known that the end lay at or before *position* then; minus infinity if
        there is none. *position* may go back only after `forget`."""
        with self._lock:
            marks = self._marks.get(partition, ())
            while marks and marks[0][0] <= position:
                self._reached[partition] = marks.popleft()[1]
            return self._reached.get(partition, -math.inf)

    def forget(self, partition: TopicPartition) -> None:
        """Reading of *partition* begins anew."""
        with self._lock:
            self._reached.pop(partition, None)

    def watch(self, consumer: Any) -> None:
        """Listen to the fetches of *consumer*. Raises KafkaConfigurationError when this kafka-python is not the one
        that this was written for."""
        fetcher = getattr(consumer, "_fetcher", None)
        create, handle = (getattr(fetcher, name, None) for name in ("_create_fetch_requests", "_handle_fetch_response"))
        if fetcher is None or create is None or handle is None or not hasattr(fetcher, "_session_handlers"):
            raise KafkaConfigurationError("this release of kafka-python is not supported: its fetcher has changed")
        sent_at: dict[Any, float] = {}  # by broker, which has one fetch at a time
        with self._lock:
            self._told.clear()  # a new session tells everything anew

        def created() -> Any:
            now = self._clock.monotonic()
            requests = create()
            sent_at.update(dict.fromkeys(requests, now))
            return requests

        def handled(node_id: Any, fetch_offsets: Any, send_time: float, response: Any) -> Any:
            result = handle(node_id, fetch_offsets, send_time, response)
            moment = sent_at.pop(node_id, None)
            if moment is not None and response.error_code == 0:
                session = fetcher._session_handlers.get(node_id)
                self._take(response, moment, session.session_partitions if session is not None else {})
            return result

        fetcher._create_fetch_requests = created
        fetcher._handle_fetch_response = handled

    def _take(self, response: Any, moment: float, session: Mapping[Any, Any]) -> None:
        named: dict[TopicPartition, int | None] = {}
        for topic in response.responses:
            for one in topic.partitions:
                stable = one.last_stable_offset if one.last_stable_offset >= 0 else one.high_watermark
                named[TopicPartition(topic.topic, one.partition_index)] = stable if one.error_code == 0 else None
        with self._lock:
            for place, end in named.items():
                if end is None or end < 0:
                    self._told.pop(place, None)
                else:
                    self._note(place, end, moment)
            if not response.session_id:
                return  # Without a session nothing is left out.
            for topic, number in list(session):
                place = TopicPartition(topic, number)
                if place not in named and place in self._told:
                    self._note(place, self._told[place], moment)

    def _note(self, place: TopicPartition, end: int, moment: float) -> None:
        self._told[place] = end
        marks = self._marks.setdefault(place, deque(maxlen=_MAX_MARKS))
        if marks and marks[-1][0] >= end:
            # The same end, seen later; a smaller one (another leader, for a moment) must not be jumped over either.
            marks[-1] = (marks[-1][0], moment)
        else:
            marks.append((end, moment))
