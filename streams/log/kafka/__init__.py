"""The log on Apache Kafka, through kafka-python: the only package of `streams` that imports `kafka`.

`log.py` composes; `settings.py` holds every client setting with its reason; `topics.py`, `reader.py`, `membership.py`
and `writer.py` each wrap one client and translate its behaviour and errors into those of the port.
"""

from streams.log.kafka.log import KafkaLog
from streams.log.kafka.settings import KafkaSettings

__all__ = ["KafkaLog", "KafkaSettings"]
