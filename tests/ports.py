"""Ports of 127.0.0.1 that belong to one test process for as long as its tests may use them.

A port that was only found free may belong to another server by the time it is used: of a test process beside this one,
or of the same test. Email for a server that is away would reach that one.
"""

from __future__ import annotations

import socket
from collections import deque

MAX_KEPT = 200
"""Ports that a process keeps. The oldest one goes first; its test is long over."""

_kept: deque[socket.socket] = deque()


def reserve_port() -> socket.socket:
    """Return a socket that reserves its port until it is closed. Connections to the port are refused meanwhile.

    The kernel gives the port to nobody who asks for any port, nor to a client. A server that names it may listen there,
    as each sets SO_REUSEADDR, and this socket does not listen (socket(7)).
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def free_port() -> int:
    """Return a port on which nobody listens, and reserve it for this process."""
    reserved = reserve_port()
    _kept.append(reserved)
    if len(_kept) > MAX_KEPT:
        _kept.popleft().close()
    port: int = reserved.getsockname()[1]
    return port
