"""Hearing what the scripts publish, on a thread of its own, and a connection of its own to each server."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterable
from typing import Any

import redis

from ..hints import HintListener
from .servers import ANSWER_TIMEOUT, Server, Servers

LOOK_EVERY = 10.0
"""Seconds between two looks whether the connections still are ones."""


class RedisListener(HintListener):
    """Hears of the awaited channels. ``tag``: what the hints of a channel are published under."""

    def __init__(
        self,
        servers: Servers,
        tag: Callable[[str], bytes],
        heard: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        super().__init__(heard, changed)
        self._servers = servers
        self._tag = tag
        self._subscribed: frozenset[str] = frozenset()
        self._growing = threading.Lock()

    def listen(self, channels: Iterable[str]) -> bool:
        """Channels once heard of are heard of until the end: a busy worker awaits now these, now those."""
        channels = frozenset(channels)
        with self._growing:
            bell = self._bell
            if not channels <= self._subscribed and self.is_live and bell is not None:
                self.is_live = False
                self._awaited = channels
                os.write(bell, b"+")
        return super().listen(channels)

    def _listen(self, ring: int) -> bool:
        self._subscribed = frozenset()
        subscriptions: dict[Server, _Subscription] = {}
        try:
            while True:
                self._grow(subscriptions)
                if self._hear(list(subscriptions.values()), ring):
                    return True
        finally:
            self._subscribed = frozenset()
            for subscription in subscriptions.values():
                subscription.close()

    def _grow(self, subscriptions: dict[Server, _Subscription]) -> None:
        new = self._awaited - self._subscribed
        for server, channels in self._servers.parts(new):
            if server not in subscriptions:
                subscriptions[server] = _Subscription(server)
            if subscriptions[server].add([self._tag(channel) for channel in channels]):
                self._heard()
        with self._growing:
            self._subscribed |= new
            self.is_live = True
        self._changed()

    def _hear(self, subscriptions: list[_Subscription], ring: int) -> bool:
        """Until the bell rings. Returns whether that means the end; else others are awaited."""
        poll = select.poll()
        for file in (ring, *(s.file for s in subscriptions)):
            poll.register(file, select.POLLIN)
        while True:
            ready = {file for file, _ in poll.poll(LOOK_EVERY * 1000)}
            if ring in ready:
                return not os.read(ring, 1)
            for subscription in subscriptions:
                if not ready:
                    subscription.look()
                elif subscription.file in ready and subscription.read():
                    self._heard()


class _Subscription:
    """A connection to one server that is told of channels."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._is_asked = False  # whether it is still alive
        with server.plain_words():
            self._node = server.node_to_hear()
            self._hints: Any = self._node.listen()

    @property
    def file(self) -> int:
        number: int = self._hints.connection._sock.fileno()
        return number

    def add(self, tags: list[bytes]) -> bool:
        """Subscribe, and wait until the server has. Returns whether there was a hint meanwhile."""
        missing, found = len(tags), False
        with self._server.plain_words():
            self._hints.subscribe(*tags)
            while missing:
                said = self._hints.get_message(timeout=ANSWER_TIMEOUT)
                if said is None:
                    raise redis.TimeoutError("it does not answer")
                missing -= said["type"] == "subscribe"
                found = found or said["type"] == "message"
        return found

    def read(self) -> bool:
        """Read all that has arrived. Returns whether there was a hint."""
        found = False
        with self._server.plain_words():
            while (said := self._hints.get_message(timeout=0)) is not None:
                found = found or said["type"] == "message"
                self._is_asked = self._is_asked and said["type"] != "pong"
        return found

    def look(self) -> None:
        """Ask for a sign of life. Raises if there was none since the last look."""
        with self._server.plain_words():
            if self._is_asked:
                raise redis.ConnectionError("it has stopped answering")
            if self._node.has_left:
                raise redis.ConnectionError(f"{self._node.name} has left the cluster")
            self._is_asked = True
            self._hints.ping()

    def close(self) -> None:
        self._hints.close()
