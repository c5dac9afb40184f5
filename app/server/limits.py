"""What a connection may take, and what the edge counts of connections. Values only; nothing here touches a socket."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """Bounds on connections. `max_listeners`: connections of listeners, which come on top of `max_connections`; the
    application keeps that limit, and counts them in `EdgeStats`. Times are seconds; each is kept within one sweep (a
    second, less where it is short).

    `header_timeout_s`: from connecting, or from a request's first byte, to its complete head.
    `body_timeout_s`: from the head to the last byte of the body; without any byte, half of it.
    `idle_timeout_s`: how long a kept-alive connection may wait for its next request.
    `write_timeout_s`: how long a client may leave more than the write buffer's high-water mark (64 KiB) unread.
    `hand_over_timeout_s`: how long the application may go on after SIGTERM while others take its work over.
    `drain_timeout_s`: how long requests in progress may go on after that.
    `stop_timeout_s`: how long the application may take to stop after that.
    """

    max_connections: int = 1000
    max_listeners: int = 0
    header_timeout_s: float = 10.0
    body_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0
    write_timeout_s: float = 10.0
    hand_over_timeout_s: float = 2.5
    drain_timeout_s: float = 3.0
    stop_timeout_s: float = 6.5

    @property
    def sweep_interval_s(self) -> float:
        """How often the deadlines are looked at: often enough for the shortest of them, at most once a second."""
        shortest = min(self.header_timeout_s, self.body_timeout_s, self.idle_timeout_s, self.write_timeout_s)
        return max(0.02, min(1.0, shortest / 5))


@dataclass(slots=True)
class EdgeStats:
    """Counted on the event loop's thread; any thread may read. The worker puts it into the ASGI lifespan state as
    `edge`, where the application finds it for its metrics and for `/readyz`."""

    is_draining: bool = False
    open_connections: int = 0
    listeners: int = 0
    refused_connections: int = 0
    evicted_connections: int = 0
    timeouts: Counter[str] = field(default_factory=Counter)
    loop_lag_s: float = 0.0
