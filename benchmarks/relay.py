"""An SMTP server far away: ``python -m benchmarks.relay SECONDS [pipelining]`` answers each write so much later.

Prints its port, then serves until it is told to stop. It keeps nothing. With ``--counter FILE`` it counts what it
accepts there, as ``smtp-sink -c`` does.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
from collections.abc import Callable
from pathlib import Path


class Relay(asyncio.Protocol):
    """All commands that came in one write are answered in one write."""

    def __init__(self, seconds: float, pipelining: bool, count: Callable[[], object]) -> None:
        self._seconds = seconds
        self._count = count
        self._offers = b"250-relay\r\n" + (b"250-PIPELINING\r\n" if pipelining else b"") + b"250 8BITMIME\r\n"
        self._unread = b""
        self._in_content = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"220 relay ESMTP\r\n")

    def data_received(self, received: bytes) -> None:
        self._unread += received
        if replies := b"".join(iter(self._answer, b"")):
            asyncio.get_running_loop().call_later(self._seconds, self._transport.write, replies)

    def _answer(self) -> bytes:
        """To the next command or content, empty if there is no whole one."""
        end = b"\r\n.\r\n" if self._in_content else b"\r\n"
        found, separator, rest = self._unread.partition(end)
        if not separator:
            return b""
        self._unread = rest
        if self._in_content:
            self._in_content = False
            self._count()
            return b"250 2.0.0 Ok: queued\r\n"
        match found[:4].upper():
            case b"EHLO":
                return self._offers
            case b"DATA":
                self._in_content = True
                return b"354 End data with <CR><LF>.<CR><LF>\r\n"
            case b"QUIT":
                return b"221 2.0.0 Bye\r\n"
        return b"250 2.1.0 Ok\r\n"


async def serve(seconds: float, pipelining: bool, count: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Relay(seconds, pipelining, count), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay")
    parser.add_argument("seconds", type=float)
    parser.add_argument("pipelining", nargs="?", choices=["pipelining"])
    parser.add_argument("--counter", default=os.devnull)
    options = parser.parse_args()
    with Path(options.counter).open("wb", buffering=0) as file:
        numbers = itertools.count(1)
        asyncio.run(
            serve(
                options.seconds,
                options.pipelining is not None,
                lambda: file.write(b"mesg=%d\r" % next(numbers)),
            )
        )


if __name__ == "__main__":
    main()
