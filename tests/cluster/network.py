"""A cluster with a network between its parts: each node reaches the brokers, and is reached by its peers, through
proxies of its own, which can be cut and slowed. Clients reach the nodes directly."""

from collections.abc import Sequence
from typing import Self

from tests.support.broker import Cluster, free_ports
from tests.support.cluster import Nodes
from tests.support.proxy import Proxy, Way


class Network:
    """The lines of some nodes. Make it before the nodes start; it belongs to one owner."""

    def __init__(self, brokers: Cluster, names: Sequence[str]) -> None:
        """*brokers* must have been made with *names* as routes."""
        self._brokers = brokers
        self._to_brokers: dict[str, list[Proxy]] = {}
        self._to_node: dict[str, Proxy] = {}
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        for name in names:
            routes = [brokers.route(name, broker) for broker in brokers.ids]
            self._to_brokers[name] = [Proxy(target, port=port) for target, port in routes]
            self._to_node[name] = Proxy(("127.0.0.1", self._ports[name]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in [*self._to_node.values(), *(proxy for some in self._to_brokers.values() for proxy in some)]:
            proxy.close()

    def start(self, nodes: Nodes) -> None:
        """Add a node for each name, and return when all have settled."""
        for name, port in self._ports.items():
            servers = [f"127.0.0.1:{self._brokers.route(name, broker)[1]}" for broker in self._brokers.ids]
            environment = {
                "PORT": str(port),
                "PROFILES_BOOTSTRAP_SERVERS": ",".join(servers),
                "PROFILES_APPLICATION_SERVER": "http://{}:{}".format(*self._to_node[name].address),
            }
            nodes.add(name, environment=environment)
        nodes.wait_until_settled()

    def to_brokers(self, name: str) -> "Line":
        """Everything between the node *name* and the brokers."""
        return Line(self._to_brokers[name])

    def to_node(self, name: str) -> "Line":
        """What other nodes send to *name*. What it sends to them has a line of theirs."""
        return Line([self._to_node[name]])


class Line:
    """Some proxies that suffer the same."""

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self._proxies = proxies

    def cut(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    def lose_replies(self) -> None:
        for proxy in self._proxies:
            proxy.lose_replies()

    def slow(self, *, delay_s: float = 0.0, bytes_per_s: float = 0.0) -> None:
        for proxy in self._proxies:
            proxy.slow(delay_s=delay_s, bytes_per_s=bytes_per_s)

    def heal(self) -> None:
        for proxy in self._proxies:
            proxy.heal()

    def affected_bytes(self) -> int:
        """See `Proxy.affected_bytes`; the sum, in both directions."""
        return sum(proxy.affected_bytes(way) for proxy in self._proxies for way in Way)
