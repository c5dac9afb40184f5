"""Applications on the embedded log: what a topology computes is there, once, whatever ends the process."""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

from examples.food_orders.topology import CUSTOMER_TOPIC, CUSTOMERS, ORDER_COUNT, ORDER_TOPIC, food_orders
from examples.word_count.topology import COUNTS, LINES_TOPIC, OUTPUT_TOPIC, WINDOWED_COUNTS, word_count
from streams.application.logs import UnclosedLog
from streams.application.producing import Input
from streams.application.purging import Purger
from streams.clock import SystemClock
from streams.dsl import StreamsBuilder
from streams.log.local import LocalLog
from tests.streams.application.fed_process import PREFIX, SEED, TOPICS
from tests.streams.application.rig import embedded, records_of, rows, stores, wait_until_processed
from tests.support.streaming import ROOT
from tests.support.streaming_topologies import OUTPUTS, check, counting, inputs, remembering

LINES = [f"to be or not to be {n % 50}" for n in range(1_000)]
WORDS = Counter(word for line in LINES for word in line.split())


def test_words_are_counted_and_a_restart_goes_on(tmp_path: Path) -> None:
    """Two sub-topologies and the topic between them: counts, windows and outputs are right after each start."""
    begin_ms = (SystemClock().time_ms() - 3_600_000) // 60_000 * 60_000  # older input would be removed by its age
    for start in (1, 2):
        with embedded(word_count(), tmp_path, {LINES_TOPIC: 3, OUTPUT_TOPIC: 2}) as application:
            application.wait_ready(30)
            application.producer.send(LINES_TOPIC, [Input(None, line, begin_ms + 60_000 * start) for line in LINES])
            wait_until_processed(application)
            assert rows(application, COUNTS) == {word: n * start for word, n in WORDS.items()}
            windows = [
                store.fetch("be", begin_ms, begin_ms + 600_000) for store in stores(application, WINDOWED_COUNTS)
            ]
            found = {window: n for each in windows for window, n in each}
            assert found == {begin_ms + 60_000 * n: WORDS["be"] for n in range(1, start + 1)}
            output = [record for record in records_of(application, OUTPUT_TOPIC) if record.key == b"be"]
            counted = [int.from_bytes(record.value or b"", "big") for record in output]
            assert counted == list(range(1, WORDS["be"] * start + 1))


def test_killed_again_and_again_it_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    """SIGKILL at random moments; the last start goes on to the end, and all results are those of one run."""
    random, number, begin_ms = Random(11), 6_000, SystemClock().time_ms() - 3_600_000
    command = [sys.executable, "-m", "tests.streams.application.fed_process", str(tmp_path), str(number), str(begin_ms)]
    for _ in range(5):
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            process.wait(random.uniform(1.0, 3.0))
        except subprocess.TimeoutExpired:
            process.kill()
        finally:
            process.wait(10)
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    with embedded(counting(PREFIX), tmp_path, TOPICS) as application:
        application.wait_ready(30)
        wait_until_processed(application)
        found = {PREFIX + topic: records_of(application, PREFIX + topic) for topic in OUTPUTS}
    check(inputs(number, SEED, begin_ms), found, PREFIX)


def test_a_table_is_what_was_processed_of_its_topic(tmp_path: Path) -> None:
    """Also when its topic could serve as changelog: the store never runs ahead of the input, and survives."""
    topics = {CUSTOMER_TOPIC: 3, ORDER_TOPIC: 3}
    for orders in (1, 2):
        with embedded(food_orders(), tmp_path, topics) as application:
            application.wait_ready(30)
            if orders == 1:
                application.producer.send(CUSTOMER_TOPIC, [Input("1", "john", 5), Input("2", "adam", 6)])
            wait_until_processed(application)
            application.produce(ORDER_TOPIC, "1", "pizza")
            wait_until_processed(application)
            assert rows(application, CUSTOMERS) == {"1": "john", "2": "adam"}
            assert rows(application, ORDER_COUNT) == {"1": orders}


def test_changes_of_a_table_are_forwarded_each(tmp_path: Path) -> None:
    """Three values of one key in one batch are three updates, with the old value of each, also after a restart."""
    builder = StreamsBuilder("tables", value=int)
    table = builder.table("prices", key=str, value=int, store="prices")
    table.group_by(lambda key, price: (key[0], price)).aggregate(
        int, lambda _, price, total: total + price, lambda _, price, total: total - price, store="sums"
    ).to_stream().to("sums")
    topics = {"prices": 2, "sums": 1}
    for start in (0, 1):
        with embedded(builder.build(), tmp_path, topics) as application:
            application.wait_ready(30)
            records = [Input("a1", 10 + start), Input("a2", 5), Input("a1", 20 + start), Input("a1", 30 + start)]
            application.producer.send("prices", records)
            wait_until_processed(application)
            assert rows(application, "sums") == {"a": 35 + start}


def test_a_global_table_is_complete_before_anything_is_processed(tmp_path: Path) -> None:
    """A stream that meets it finds every row, also those of partitions that the stream's topic does not have."""
    builder = StreamsBuilder("globals")
    names = builder.global_table("names", key=str, value=str, store="names")
    orders = builder.stream("orders", key=str, value=str)
    orders.join(names, lambda order, name: f"{order} for {name}", on=lambda key, _: key).to("named")
    topics = {"names": 5, "orders": 2, "named": 2}
    with embedded(builder.build(), tmp_path, topics) as application:
        application.wait_ready(30)
        application.producer.send("names", [Input(f"k{n}", f"name {n}") for n in range(200)])
        application.producer.send("names", [Input("k7", "elsewhere", partition=p) for p in range(5) if p != 0])
    with embedded(builder.build(), tmp_path, topics) as application:
        application.producer.send("orders", [Input(f"k{n}", f"order {n}") for n in range(200)])
        application.wait_ready(30)
        wait_until_processed(application)
        found = {record.key: record.value for record in records_of(application, "named")}
        assert len(found) == 200
        assert found[b"k150"] == b"order 150 for name 150"
        assert application.node_of("names") is application.nodes["global-names"]


def test_what_is_processed_leaves_repartition_topics(tmp_path: Path) -> None:
    """Their records are deleted behind the tasks that read them, and nothing else is."""
    topics = {LINES_TOPIC: 3, OUTPUT_TOPIC: 2}
    for _ in range(2):
        with embedded(word_count(), tmp_path, topics) as application:
            application.wait_ready(30)
            application.producer.send(LINES_TOPIC, [Input(None, line) for line in LINES])
            wait_until_processed(application)
            (topic,) = application.topology.subtopologies[1].source_topics
            assert records_of(application, topic)
            Purger(application._processings, application.log, application.clock).purge()
            log = application.log
            assert isinstance(log, UnclosedLog)
            assert isinstance(log.inner, LocalLog)
            log.inner.clean()
            assert not records_of(application, topic)
            assert len(records_of(application, LINES_TOPIC)) % len(LINES) == 0
    assert rows_after(tmp_path) == {word: 2 * n for word, n in WORDS.items()}


def rows_after(directory: Path) -> dict[str, int]:
    with embedded(word_count(), directory, {LINES_TOPIC: 3, OUTPUT_TOPIC: 2}) as application:
        application.wait_ready(30)
        wait_until_processed(application)
        return rows(application, COUNTS)


def test_a_store_without_a_changelog_lives_and_dies_with_the_data_directory(tmp_path: Path) -> None:
    """It has no topic, is there after a restart, and is empty when the state of its tasks is lost."""
    for start, wanted in ((1, 3), (2, 6), (3, 3)):
        with embedded(remembering("app"), tmp_path, {"app-in": 2, "app-out": 2}) as application:
            application.wait_ready(30)
            application.producer.send("app-in", [Input("k", str(n)) for n in range(3)])
            wait_until_processed(application)
            assert rows(application, "seen") == {"k": wanted}
            assert not [topic for node in application.nodes.values() for topic in node.topic_ids if "seen" in topic]
            assert len(records_of(application, "app-out")) == 3 * start
        if start == 2:
            shutil.rmtree(tmp_path / "0")  # the stores of the sub-topology; the log is elsewhere
