"""The Channels 4 side of the Redis layer: channels_redis as it is, for groups and ``!`` names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from channels_redis.core import RedisChannelLayer as ChannelsRedisLayer
from channels_redis.utils import create_pool
from redis.asyncio.sentinel import SentinelConnectionPool

from ...errors import InvalidSettings
from ...messages import Content
from ..cancelling import end
from ..channels_bridge import NamedChannels
from .servers import with_defaults

NO_GROUPS = (
    'A Redis layer with "cluster" in its CONFIG has named channels only: channels_redis, which carries groups and '
    "process-local channels, knows no clusters. Give those an entry of their own in CHANNEL_LAYERS, such as "
    '"groups": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": […one server or '
    'node…]}}, and ask for it by name: get_channel_layer("groups"), and channel_layer_alias = "groups" in the '
    "consumers of WebSockets."
)

_named_members: ContextVar[list[str]] = ContextVar("mailrail_named_members")


class _WatchedPool(SentinelConnectionPool):
    """Closes the connections to the Sentinels, too, when it is closed: redis-py forgets them."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:  # else a new master was found
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


class EphemeralChannels(NamedChannels, ChannelsRedisLayer):  # type: ignore[misc]  # Channels has no types
    """Groups and ``!`` names live on the server as long as channels_redis keeps them. Named channels are durable."""

    is_on_cluster = False

    async def send(self, channel: str, message: Content) -> None:
        """Channels' ``send``."""
        self.require_valid_channel_name(channel)
        if "!" in channel:
            self._require_groups()
        await super().send(channel, message)

    async def group_add(self, group: str, channel: str) -> None:
        """Channels' ``group_add``."""
        self._require_groups()
        await super().group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Channels' ``group_discard``."""
        self._require_groups()
        await super().group_discard(group, channel)

    async def flush(self) -> None:
        """Channels' ``flush``: forget groups and ``!`` names. Durable messages stay."""
        if not self.is_on_cluster:
            await super().flush()

    def _require_groups(self) -> None:
        if self.is_on_cluster:
            raise InvalidSettings(NO_GROUPS)

    def create_pool(self, index: int) -> Any:
        """channels_redis asks here for its connections, which are asyncio's."""
        pool = create_pool(with_defaults(self.hosts[index]))
        if isinstance(pool, SentinelConnectionPool):
            pool.__class__ = _WatchedPool
        return pool

    async def receive(self, channel: str) -> Content:
        """Channels' ``receive``. Cancelled, it ends, and returns what it has received by then.

        On a cluster nothing comes on a ``!`` name, as nobody can send there. It waits, and does not raise: consumers of
        Channels listen on such a name whether they use it or not.
        """
        self.require_valid_channel_name(channel)
        if "!" not in channel:
            return await super().receive(channel)
        if self.is_on_cluster:
            nothing: Content = await asyncio.get_running_loop().create_future()
            return nothing
        receiving = asyncio.ensure_future(super().receive(channel))
        try:
            return await asyncio.shield(receiving)
        except asyncio.CancelledError:
            try:
                await end(receiving)
            finally:
                is_received = not receiving.cancelled() and receiving.exception() is None
            if not is_received:
                raise
            return receiving.result()

    async def group_send(self, group: str, message: Content) -> None:
        """Channels' ``group_send``. Members that are named channels get a durable message."""
        self._require_groups()
        named: list[str] = []
        before = _named_members.set(named)
        try:
            await super().group_send(group, message)
        finally:
            _named_members.reset(before)
        for channel in named:
            await self.send(channel, message)

    def _map_channel_keys_to_connection(self, channel_names: Sequence[str], message: Content) -> Any:
        """Inside channels_redis's ``group_send``, which has just read the members: take out the named ones."""
        _named_members.get().extend(name for name in channel_names if "!" not in name)
        return super()._map_channel_keys_to_connection([n for n in channel_names if "!" in n], message)
