"""The DSL: topologies of streams and tables, written as Python expressions. Kafka Streams' names where Python has none.

Begin with `StreamsBuilder`. Everything that it returns only describes; see `streams.processing` for what runs it, and
`streams.testing.TopologyTestDriver` to try it.
"""

from streams.dsl.api import GlobalKTable, KGroupedStream, KGroupedTable, KStream, KTable, WindowedKStream
from streams.dsl.builder import StreamsBuilder
from streams.operators.joiners import with_key
from streams.operators.processors import Processor, ProcessorContext, ProcessorRecord
from streams.topology.windows import hopping, join_windows, session, sliding, tumbling

__all__ = [
    "GlobalKTable",
    "KGroupedStream",
    "KGroupedTable",
    "KStream",
    "KTable",
    "Processor",
    "ProcessorContext",
    "ProcessorRecord",
    "StreamsBuilder",
    "WindowedKStream",
    "hopping",
    "join_windows",
    "session",
    "sliding",
    "tumbling",
    "with_key",
]
