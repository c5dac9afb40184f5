"""Topics that an application creates for its users."""

from pathlib import Path

from streams.clock import Deadline
from streams.dsl import StreamsBuilder
from tests.streams.application.rig import embedded


def test_a_topic_that_is_read_as_a_table_is_compacted(tmp_path: Path) -> None:
    """It is the only place where its rows are: of any other, old records may be deleted."""
    builder = StreamsBuilder("shop")
    products = builder.table("products", key=str, value=str)
    builder.global_table("shops", key=str, value=str)
    builder.stream("purchases", key=str, value=str).join(products, lambda purchase, _: purchase).to("named")
    topics = dict.fromkeys(("products", "shops", "purchases", "named"), 2)
    with embedded(builder.build(), tmp_path, topics) as application:
        found = application.log.describe_topics(list(topics), Deadline.after(5, application.clock))
        policies = {name: info.config["cleanup.policy"] for name, info in found.items()}
    assert policies == {"products": "compact", "shops": "compact", "purchases": "delete", "named": "delete"}
