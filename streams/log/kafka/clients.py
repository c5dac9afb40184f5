"""Opening Kafka's clients without leaking their threads, and bounding calls that kafka-python leaves unbounded.

Invariant: nobody waits here longer than his deadline, whatever a client does.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kafka.net.compat import KafkaNetClient

from streams.clock import Clock, Deadline
from streams.errors import LogUnavailable

T = TypeVar("T")


def open_client(kind: Callable[..., T], config: Mapping[str, Any], network: Callable[..., Any] = KafkaNetClient) -> T:
    """Return `kind(**config)`, which connects at once. *network* makes its connections (`kafka_client`).

    When the constructor fails (no broker answers), what it opened is closed: it would leave a thread behind each time.
    """
    opened: list[Any] = []

    def make_network(**configs: Any) -> Any:
        made = network(**configs)
        opened.append(made)
        return made

    try:
        return kind(**config, kafka_client=make_network)
    except BaseException:
        for made in opened:
            made.close()
        raise


def close_producer(producer: Any) -> None:
    """Close *producer* in the background: it may take a second."""
    threading.Thread(target=_close, args=(producer,), name="kafka-producer-close", daemon=True).start()


def _close(producer: Any) -> None:
    try:
        producer.close(timeout=1)
    except Exception:  # noqa: BLE001  # Batches that are never answered: its thread must end all the same.
        with contextlib.suppress(Exception):
            producer._sender.force_close()


def bounded(call: Callable[[], T], deadline: Deadline, clock: Clock, *, what: str) -> T:
    """Return what *call* returns on a thread of its own, waiting until *deadline*.

    Raises LogUnavailable after it, naming *what* was asked; the thread then ends when its request times out.
    """
    outcome: list[tuple[bool, Any]] = []
    is_done = threading.Event()

    def run() -> None:
        try:
            outcome.append((True, call()))
        except BaseException as error:  # noqa: BLE001  # Raised again, on the thread that asked.
            outcome.append((False, error))
        is_done.set()

    threading.Thread(target=run, name=f"kafka-{what.replace(' ', '-')}", daemon=True).start()
    if not is_done.wait(deadline.remaining_s(clock)):
        raise LogUnavailable(f"Kafka did not answer in time: {what}")
    is_good, value = outcome[0]
    if not is_good:
        raise value
    result: T = value
    return result
