"""The DSL: topologies of streams and tables, written as Python expressions. Kafka Streams' names where Python has none.

Begin with `StreamsBuilder`. Each method of what it returns adds to the topology and returns a new object; nothing
runs, and the objects hold no data. `streams.application.StreamsApplication` runs what was built,
`streams.testing.TopologyTestDriver` tries it. One thread writes a topology. What cannot work raises TopologyError in
the line where it is written (a name that is used twice, a join of what cannot be joined), or in `build`.

A function that is passed in is called for each record later, by the thread of a task: it must not keep state of its
own (stores are for that), and must not change the values that it is given, except an aggregate that it returns. What
it raises is treated as the error policy says (`on_processing_error`).

`key=` and `value=` name serdes, or the type that has a usual one (`streams.serdes.of`, which raises ConfigError for a
type that has none). They are needed where an operation makes keys or values of another type and these go to a topic or
a store; without them the builder's defaults are used. `store=` names a store, which makes it readable by queries.
`name=` names what would else get a number.
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
