"""A TCP proxy that can be cut: what a network does to a connection."""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from .ports import free_port

Swallow = Callable[[bytes], bool]

SO_ATTACH_FILTER = 26
RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A program for the kernel's packet filter: keep 0 bytes of each packet (socket(7), linux/filter.h)."""


class Proxy:
    """Forwards 127.0.0.1:``port`` to another port, until it is told otherwise."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.port = free_port()
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._open = True
        self._silent: set[socket.socket] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self.delay = 0.0
        """Seconds by which all that is forwarded comes later."""
        self._swallow: Swallow | None = None
        self.swallowed = 0
        self._muted: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def lead_to(self, target: int) -> None:
        """New connections go to that port; those that are open stay where they are."""
        self._target = target

    def cut(self) -> None:
        """Break every connection, and refuse new ones until ``mend``."""
        self._open = False
        self._break_all()

    def silence(self) -> None:
        """Let every connection hang for good, as if the cable was pulled: our kernel, too, answers to nothing."""
        for client, _ in self._pairs:
            with suppress(OSError):  # it has ended
                _drop_all(client)
                self._silent.add(client)

    def hold(self) -> None:
        """A black hole: connections stay, new ones are taken, and nothing more arrives until ``mend``."""
        self._flowing.clear()

    def half_close(self) -> None:
        """End the way from the server to the client: what the client sends still arrives, no answer comes."""
        for client, _ in list(self._pairs):
            with suppress(OSError):
                client.shutdown(socket.SHUT_WR)

    def mend(self) -> None:
        """Take new connections again."""
        self._open = True
        self._flowing.set()

    def lose_answer_to(self, swallow: Swallow | None) -> None:
        """When the client sends something for which ``swallow`` is true: forward it, then break without the answer."""
        self._swallow = swallow

    def close(self) -> None:
        self._listening.close()
        self._flowing.set()
        self._break_all()

    def _break_all(self) -> None:
        for pair in list(self._pairs):
            _break(*pair)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                if not self._open:
                    client.close()
                    continue
                with suppress(OSError):
                    server = socket.create_connection(("127.0.0.1", self._target))
                    self._pairs.append((client, server))
                    threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
                    threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()
                    continue
                client.close()

    def _forward(self, source: socket.socket, sink: socket.socket, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if asks and self._swallow is not None and self._swallow(data):
                    self._muted.add(sink)
                elif sink in self._silent:
                    return
                elif source in self._muted:  # the answer: the server has done its part
                    self.swallowed += 1
                    break
                time.sleep(self.delay)
                self._flowing.wait()
                sink.sendall(data)
        _break(source, sink)


def _drop_all(end: socket.socket) -> None:
    program = ctypes.create_string_buffer(RETURN_NOTHING)
    end.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def _break(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
