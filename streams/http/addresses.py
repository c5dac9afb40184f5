"""Which addresses of other nodes may be used at all. A member of the group can advertise anything; so can whoever got
into it. What passes here is only fit to be asked who it is: `streams.http.liveness` does that, and nothing of a client
goes to an address that has not proved it.
"""

import asyncio
import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from streams.http.signing import is_loopback_address

_ADDRESS = re.compile(r"(https?)://(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):([0-9]{1,5})")


class PeerAddress(NamedTuple):
    """A checked address. `host` without brackets."""

    scheme: str
    host: str
    port: int


class AddressRules(NamedTuple):
    """What this node accepts. `own`: its own address. `has_secret` False: peers must be on loopback too."""

    own: str
    has_secret: bool

    def parse(self, address: str) -> PeerAddress:
        """Return *address*, taken apart. Raises ValueError, saying what is wrong, unless it is a bare
        `http://host:port` or `https://host:port` that may be a peer's."""
        found = _ADDRESS.fullmatch(address)
        if found is None or not 0 < int(found[3]) < 65536:
            raise ValueError("it is not a bare http://host:port")
        if address.lower() == self.own.lower():
            raise ValueError("it is this node's own address")
        host = found[2].strip("[]")
        if host.lower() != "localhost":
            try:
                parsed = ip_address(host)
            except ValueError:
                pass  # a name: looked at when it is resolved
            else:
                self.check_ip(str(parsed))
        return PeerAddress(found[1], host, int(found[3]))

    def check_ip(self, text: str) -> None:
        """Raise ValueError if no peer can be at this IP address."""
        ip: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
        if isinstance(ip, IPv6Address):
            ip = ip.ipv4_mapped or ip.sixtofour or ip
        if ip.is_loopback:
            if not is_loopback_address(self.own):
                raise ValueError(f"{ip} is loopback, and this node is not")
        elif ip.is_link_local or ip.is_unspecified or ip.is_multicast or ip.is_reserved:
            raise ValueError(f"{ip} is not the address of a node")
        elif not self.has_secret:
            raise ValueError(f"{ip} is not loopback, and there is no cluster secret")

    async def resolve(self, host: str, port: int, family: socket.AddressFamily) -> list[tuple[str, int]]:
        """Return the IP addresses of *host* with their family. Raises OSError if it has none, or a single one that may
        not be used: a name that points to many places is not trusted with any."""
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        found = [(str(sockaddr[0]), int(family)) for family, _, _, _, sockaddr in infos]
        try:
            for ip, _ in found:
                self.check_ip(ip)
        except ValueError as error:
            raise OSError(f"{host} is refused: {error}") from None
        return found
