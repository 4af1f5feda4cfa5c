"""The list of channels, for people: which ones a server has something of."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from ...errors import LayerUnavailable
from .keys import Keys
from .scripts import run
from .servers import Server

LISTED_FOR = 30.0
"""Seconds after which a process that uses a channel of a Cluster puts it on the list again."""
UNLISTED_AFTER = 3600.0
"""Seconds after which an unused channel leaves the list. Far more than any send takes between list and storing."""


class ChannelList:
    """Know the channels. On one server, scripts keep the list; on a Cluster, it lies in a slot of its own."""

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server = server
        self._keys = keys
        self._key = keys.of_layer("listed" if server.is_cluster else "channels")
        self._listed_at: dict[str, float] = {}

    def add(self, channels: Iterable[str]) -> None:
        """On a Cluster: before something is stored, so that no crash leaves it unlisted."""
        if not self._server.is_cluster:
            return
        now = time.monotonic()
        new = [c for c in channels if now - self._listed_at.get(c, float("-inf")) > LISTED_FOR]
        if not new or self._server.may_hang_for(self._key):  # messages of other nodes need not wait for it
            return
        try:
            run(self._server, "list", [self._key], *new, again=True)
        except LayerUnavailable:
            return  # the list is for people: messages need not wait for it, and the next call tries again
        self._listed_at.update(dict.fromkeys(new, time.monotonic()))

    def read(self) -> list[str]:
        """Return the channels that the server knows of, and some that it has nothing of any more."""
        command = ("ZRANGE", self._key, 0, -1) if self._server.is_cluster else ("SMEMBERS", self._key)
        return sorted(map(name_of, self._server.ask(*command)))

    def forget_unused(self, in_use: Collection[str]) -> None:
        """On a Cluster: take those off the list that have long been unused, besides these."""
        if self._server.is_cluster:
            run(self._server, "unlist", [self._key], UNLISTED_AFTER, *in_use, again=True)


def name_of(name: bytes) -> str:
    """Return a name as it can be shown, whatever somebody has written."""
    return name.decode("utf-8", "backslashreplace")
