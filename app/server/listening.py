"""The end of a listening socket, without a connection that is reset: the kernel does that to those which nobody has
accepted when the socket is closed, although their clients may have sent a request.

So first no more connections may come to be, then those that have are accepted, and then the socket is closed. Linux
lets a socket have a filter; one that drops SYN makes clients try again in a second, who are then refused and turn
elsewhere, while handshakes that have begun still end. A second is long for them, so this lasts some milliseconds only.
Other systems accept what has come, and a moment's risk remains.
"""

import asyncio
import ctypes
import logging
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress

logger = logging.getLogger(__name__)

_LEAST_S = 0.003  # more than a handshake that has begun takes between machines of one site
_LOOK_S = 0.001
_LONGEST_S = 0.5

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_QUEUE_AT = 24  # of tcpi_unacked in struct tcp_info, which counts what waits to be accepted on a socket that listens
# Classic BPF over the TCP header, as (code, jump if true, jump if false, k); linux/filter.h.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x45, 0, 1, 0x02),  # is SYN in it?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0x40000),  # keep
)


async def drain(listeners: Sequence[socket.socket]) -> None:
    """Let no new connection come to *listeners*, and return when those that have come are accepted, by whoever does
    that on this event loop. Half a second at most."""
    for listener in listeners:
        refuse_new(listener)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while (age_s := loop.time() - begun) < _LONGEST_S:
        if age_s >= _LEAST_S and not any(map(waiting, listeners)):
            return
        await asyncio.sleep(_LOOK_S)


def refuse_new(listener: socket.socket) -> bool:
    """Have the kernel ignore whoever begins to connect from now on; return whether it can."""
    if not sys.platform.startswith("linux"):
        return False
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    buffer = ctypes.create_string_buffer(program)
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN), ctypes.addressof(buffer))
        )
    except OSError as error:
        logger.info("connections that come in the last moment may be reset", extra={"reason": str(error)})
        return False
    return True


def waiting(listener: socket.socket) -> int:
    """Return how many connections wait to be accepted, as far as the system tells."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, struct.error):
            info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUE_AT + 4)
            return int(struct.unpack_from("I", info, _QUEUE_AT)[0])
    return 0
