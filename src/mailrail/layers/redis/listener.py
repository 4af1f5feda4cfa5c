"""Hearing what the scripts publish, on a thread of its own, and a connection of its own to each server."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterable
from typing import Any

import redis

from ..notifications import NotificationListener
from .servers import ANSWER_TIMEOUT, Server

CONNECTION_CHECK_INTERVAL_S = 10.0
"""Seconds between two looks whether the connections still are ones."""


class RedisListener(NotificationListener):
    """Receive notifications of the awaited channels. ``parts`` returns them by their servers.

    ``hash_tag`` returns the name under which a channel's are published. ``node`` is the node of a cluster to listen on;
    without it, any.
    """

    def __init__(
        self,
        parts: Callable[[Iterable[str]], list[tuple[Server, list[str]]]],
        hash_tag: Callable[[str], bytes],
        on_notification: Callable[[], None],
        on_change: Callable[[], None],
        node: Server | None = None,
    ) -> None:
        super().__init__(on_notification, on_change)
        self._node = node
        self._parts = parts
        self._hash_tag = hash_tag
        self._subscribed: frozenset[str] = frozenset()
        self._growing = threading.Lock()

    def listen(self, channels: Iterable[str]) -> bool:
        """Add these channels to those subscribed. None is dropped, as a busy worker awaits different ones in turn."""
        channels = frozenset(channels)
        with self._growing:
            wake_fd = self._wake_fd
            if not channels <= self._subscribed and self.is_live and wake_fd is not None:
                self.is_live = False
                self._awaited = channels
                os.write(wake_fd, b"+")
        return super().listen(channels)

    def _listen(self, wake_reader: int) -> bool:
        self._subscribed = frozenset()
        subscriptions: dict[Server, _Subscription] = {}
        try:
            while True:
                self._grow(subscriptions)
                if self._receive(list(subscriptions.values()), wake_reader):
                    return True
        finally:
            self._subscribed = frozenset()
            for subscription in subscriptions.values():
                subscription.close()

    def _grow(self, subscriptions: dict[Server, _Subscription]) -> None:
        new = self._awaited - self._subscribed
        for server, channels in self._parts(new):
            if server not in subscriptions:
                subscriptions[server] = _Subscription(self._node or server.node_to_listen_on())
            if subscriptions[server].add([self._hash_tag(channel) for channel in channels]):
                self._on_notification()
        with self._growing:
            self._subscribed |= new
            self.is_live = True
        self._on_change()

    def _receive(self, subscriptions: list[_Subscription], wake_reader: int) -> bool:
        """Receive until ``wake_reader`` is readable. Return whether that means the end, not other channels to await."""
        poll = select.poll()
        for file in (wake_reader, *(s.file for s in subscriptions)):
            poll.register(file, select.POLLIN)
        while True:
            ready = {file for file, _ in poll.poll(CONNECTION_CHECK_INTERVAL_S * 1000)}
            if wake_reader in ready:
                return not os.read(wake_reader, 1)
            for subscription in subscriptions:
                if not ready:
                    subscription.look()
                elif subscription.file in ready and subscription.read():
                    self._on_notification()


class _Subscription:
    """A connection to one server that is told of channels."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._is_asked = False  # whether it is still alive
        with server.plain_words():
            self._pubsub: Any = server.listen()

    @property
    def file(self) -> int:
        number: int = self._pubsub.connection._sock.fileno()
        return number

    def add(self, tags: list[bytes]) -> bool:
        """Subscribe, and wait until the server has. Returns whether there was a notification meanwhile."""
        missing, is_notified = len(tags), False
        with self._server.plain_words():
            self._pubsub.subscribe(*tags)
            while missing:
                message = self._pubsub.get_message(timeout=ANSWER_TIMEOUT)
                if message is None:
                    raise redis.TimeoutError("it does not answer")
                missing -= message["type"] == "subscribe"
                is_notified = is_notified or message["type"] == "message"
        return is_notified

    def read(self) -> bool:
        """Read all that has arrived. Returns whether there was a notification."""
        is_notified = False
        with self._server.plain_words():
            while (message := self._pubsub.get_message(timeout=0)) is not None:
                is_notified = is_notified or message["type"] == "message"
                self._is_asked = self._is_asked and message["type"] != "pong"
        return is_notified

    def look(self) -> None:
        """Ask for a sign of life. Raises if there was none since the last look."""
        with self._server.plain_words():
            if self._is_asked:
                raise redis.ConnectionError("it has stopped answering")
            if self._server.has_left:
                raise redis.ConnectionError("it has left the cluster")
            self._is_asked = True
            self._pubsub.ping()

    def close(self) -> None:
        self._pubsub.close()
