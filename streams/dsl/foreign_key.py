"""Joins of two tables by a key that lies in the rows of one of them; `streams.operators.foreign_key` says how they
work."""

from collections.abc import Callable
from typing import Any

from streams.dsl.graph import StreamRef, TableRef
from streams.operators.foreign_key import AnswerSerde, SubscriptionSerde, answer_all, receive, resolve, subscribe
from streams.operators.stateless import pass_on
from streams.operators.tables import TableSource
from streams.serdes import BYTES, Serde
from streams.topology.stores import StoreSpec


def join_on_foreign_key(
    left: TableRef,
    right: TableRef,
    joiner: Callable[[Any, Any], Any],
    is_left: bool,
    on: Callable[[Any], Any],
    store: str | None,
    value: Serde[Any] | None,
    name: str | None,
) -> TableRef:
    """Return the rows of *left*, each with the row of *right* that its foreign key names."""
    graph = left.graph
    base = name or graph.new_name("KTABLE-FK-JOIN")
    left.view.enable_old_values(force=True)
    right.view.enable_old_values(force=True)
    key, foreign_key = graph.key_of(left.key), graph.key_of(right.key)
    left_value, right_value = graph.value_of(left.value), graph.value_of(right.value)
    left_stores, right_stores = left.view.need_getter(), right.view.need_getter()

    node = graph.process(
        f"{base}-subscribe",
        [left.node],
        subscribe(on, key=key, foreign_key=foreign_key, value=left_value, is_left=is_left),
    )
    wanted = StreamRef(graph, node, foreign_key, SubscriptionSerde(), left.sources, is_rekeyed=True)
    wanted = graph.repartition(wanted, f"{base}-subscription-registration", keeps_null_keys=True)
    graph.copartition(
        wanted.sources | right.sources, f"the right side of foreign-key join {base!r} and its subscriptions"
    )

    subscriptions = graph.store(
        StoreSpec(name=f"{base}-subscription-store", key=BYTES, value=SubscriptionSerde(), is_queryable=False)
    )
    receiver = graph.process(
        f"{base}-receive",
        [wanted.node],
        receive(right.view, subscriptions, key=key, foreign_key=foreign_key, value=right_value),
        stores=[subscriptions, *right_stores],
    )
    teller = graph.process(
        f"{base}-answer",
        [right.node],
        answer_all(subscriptions, key=key, foreign_key=foreign_key, value=right_value),
        stores=[subscriptions],
    )
    answers = graph.process(f"{base}-answers", [receiver, teller], pass_on)
    answered = graph.repartition(
        StreamRef(graph, answers, key, AnswerSerde(), right.sources, is_rekeyed=True),
        f"{base}-subscription-response",
        partitioner=lambda _topic, _key, answer, _count: answer.partition,
    )
    graph.copartition(answered.sources | left.sources, f"the left side of foreign-key join {base!r} and its answers")
    resolver = graph.process(
        f"{base}-resolve",
        [answered.node],
        resolve(left.view, joiner, value=left_value, other=right_value, is_left=is_left),
        stores=left_stores,
    )
    result = store or f"{base}-STATE-STORE"
    result_value = graph.value_of(value)
    graph.store(StoreSpec(name=result, key=key, value=result_value, is_queryable=store is not None))
    table = TableSource(result, is_materialized=store is not None, is_source_changelog=False)
    graph.process(base, [resolver], table, stores=[result])
    return TableRef(graph, base, key, result_value, left.sources | answered.sources, table)
