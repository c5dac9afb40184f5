"""The topics of one instance, for its routes: what is sent to them and read from them."""

import asyncio
from collections.abc import Sequence

from examples.purchases.routes import Pair
from streams.application import StreamsApplication
from streams.application.producing import Input
from streams.clock import Deadline
from streams.errors import LogUnavailable
from streams.records import TopicPartition

MAX_VALUES = 10_000
_TIMEOUT_S = 10.0
_POLL_S = 0.2


class Topics:
    """Topics of a log on which an application runs. Any event loop: what blocks is done on a thread."""

    def __init__(self, application: StreamsApplication) -> None:
        """*application*: started."""
        self._application = application

    async def send(self, topic: str, pairs: Sequence[Pair]) -> None:
        """Append *pairs* as they are, also what nobody will be able to read. Durable when it returns; raises
        StreamsError."""
        records = [Input(pair.key, pair.value) for pair in pairs]
        await asyncio.to_thread(self._application.producer.send, topic, records, key=bytes, value=bytes)

    async def read(self, topic: str) -> Sequence[bytes]:
        """Return the committed values of *topic* from its beginning, partition by partition, `MAX_VALUES` at most.
        Raises LogUnavailable."""
        return await asyncio.to_thread(self._read, topic)

    def _read(self, topic: str) -> list[bytes]:
        log, clock = self._application.log, self._application.clock
        deadline = Deadline.after(_TIMEOUT_S, clock)
        partitions = log.describe_topics([topic], deadline)[topic].partitions
        ends = log.end_offsets([TopicPartition(topic, number) for number in range(partitions)], deadline)
        left = {place for place, end in ends.items() if end > 0}
        found: dict[TopicPartition, list[bytes]] = {place: [] for place in sorted(left)}
        reader = log.open_reader()
        try:
            reader.assign(dict.fromkeys(left, 0))
            while left and sum(map(len, found.values())) < MAX_VALUES:
                if deadline.has_passed(clock):
                    raise LogUnavailable(f"{topic} could not be read in time")
                for batch in reader.poll(_POLL_S):
                    place = TopicPartition(batch.topic, batch.partition)
                    found[place] += [record.value for record in batch.records if record.value is not None]
                    if batch.next_offset >= ends[place]:
                        left.discard(place)
        finally:
            reader.close()
        return [value for values in found.values() for value in values][:MAX_VALUES]
