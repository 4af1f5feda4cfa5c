"""A layer of several hosts, or of a cluster's nodes, taken apart: one layer for each, on the same connections."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..base import DurableLayer
from ..lost_replies import UnconfirmedClaims
from .listener import RedisListener
from .servers import Server, Servers

if TYPE_CHECKING:
    from .layer import RedisChannelLayer


class Shards:
    """The layers by server or node. One of a host knows that host only; one of a node still follows slots that move."""

    def __init__(self, layer: RedisChannelLayer) -> None:
        self._layer = layer
        self._made: dict[Server, RedisChannelLayer] = {}

    def of(self, channels: Iterable[str]) -> Mapping[DurableLayer, list[str]]:
        """Return the channels by the layer of the server or node that has them now."""
        layer = self._layer
        servers = layer._servers
        with servers.all[0].plain_words():
            homes = servers.homes(channels, layer._keys.tag)
        self._made = {server: made for server, made in self._made.items() if not server.has_left}
        return {self._shard(server): names for server, names in homes.items()}

    def _shard(self, server: Server) -> RedisChannelLayer:
        if server not in self._made:
            self._made.setdefault(server, self._make(server))
        return self._made[server]

    def _make(self, server: Server) -> RedisChannelLayer:
        shard = copy.copy(self._layer)
        DurableLayer.__init__(shard)
        node = None
        if shard.is_on_cluster:
            node, shard.is_node = server, True
        else:
            shard._servers = Servers.of_one(server)
            shard.orders_channels, shard.is_sharded = True, False
        shard._listener = RedisListener(shard._servers, shard._keys.tag, shard.wake, shard._wake_up, node)
        shard._unconfirmed = UnconfirmedClaims()
        return shard
