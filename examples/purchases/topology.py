"""What is computed: events meet the row of a table that they name by its number, and leave with what it says.

There are two versions, of purchases with products (`achats`) and of requests with users (`demandes`); each has its own
topics and its own name for what is unknown. An event can arrive before the row that it names: it waits for it a while
before it leaves with that name.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from examples.purchases.waiting import Joined, WaitForRow
from streams.dsl import StreamsBuilder
from streams.serdes import JSON, JsonSerde
from streams.topology.subtopology import ProcessorTopology

WAIT_MS = 2000
WAITING = "waiting"

Members = dict[str, Any]


class Version(NamedTuple):
    """What differs. `by_number`: the name of the topic that brings equal numbers together. `event` and `row`: the
    serdes of both. `enrich` gets an event and its row, or None."""

    application_id: str
    events: str
    by_number: str
    table: str
    output: str
    event: JsonSerde
    row: JsonSerde
    enrich: Callable[[Members, Members | None], Members]


def purchases(wait_ms: int = WAIT_MS) -> ProcessorTopology:
    """Return the topology of purchases. *wait_ms*: how long one waits for a product that is not known yet."""
    return enriched(PURCHASES, wait_ms)


def requests(wait_ms: int = WAIT_MS) -> ProcessorTopology:
    """Return the topology of requests for a new password."""
    return enriched(REQUESTS, wait_ms)


def enriched(version: Version, wait_ms: int) -> ProcessorTopology:
    """Return the topology of *version*."""
    builder = StreamsBuilder(version.application_id)
    builder.add_store(WAITING, key=int, value=JSON)
    rows = builder.table(version.table, key=str, value=version.row, store=version.table)
    events = builder.stream(version.events, key=bytes, value=version.event).select_key(number_of, key=str)
    joined = events.repartition(name=version.by_number).left_join(rows, Joined)
    met = joined.split({"known": lambda _, each: each.row is not None}, default="unknown")
    waited = met["unknown"].process(WaitForRow.of(version.table, WAITING, wait_ms), stores=[version.table, WAITING])
    named = met["known"].merge(waited).map_values(lambda each: version.enrich(each.event, each.row), value=JSON)
    named.to(version.output)
    return builder.build()


def number_of(_: object, event: Members) -> str:
    """Return the key of the row that *event* names."""
    return str(event["id"])


def name_purchase(purchase: Members, product: Members | None) -> Members:
    """Return *purchase* with the name of its product. The price keeps its digits."""
    name = "REF INCONNUE" if product is None else product["name"]
    return {"id": purchase["id"], "name": name, "price": purchase["price"]}


def address_request(request: Members, user: Members | None) -> Members:
    """Return *request* with the e-mail of its user."""
    return {**request, "email": "!!! Usager inconnu !!!" if user is None else user["email"]}


def json_of(what: str, /, **kinds: tuple[type, ...]) -> JsonSerde:
    """Return the serde of objects with exactly these members; what else is in a topic is refused when it is read."""

    def load(value: Any) -> Members:
        if not isinstance(value, dict) or value.keys() != kinds.keys():
            raise ValueError(f"an object with {', '.join(kinds)} is wanted")
        for member, wanted in kinds.items():
            if type(value[member]) not in wanted:  # a bool is no number here
                raise ValueError(f"{member} is {type(value[member]).__name__}")
        return value

    return JsonSerde(load=load, dump=lambda value: value, name=f"json<{what}>")


PURCHASES = Version(
    application_id="enrichissement-achats",
    events="achats",
    by_number="achats-by-product-id",
    table="referentiel",
    output="achats-enrichis",
    event=json_of("purchase", id=(int,), price=(int, Decimal)),
    row=json_of("product", id=(int,), name=(str,)),
    enrich=name_purchase,
)
REQUESTS = Version(
    application_id="enrichissement-demande",
    events="demandes",
    by_number="demandes-by-usager-id",
    table="usagers",
    output="demandes-enrichies",
    event=json_of("request", id=(int,), name=(str,), firstName=(str,)),
    row=json_of("user", id=(int,), email=(str,)),
    enrich=address_request,
)
VERSIONS = {version.events: version for version in (PURCHASES, REQUESTS)}
