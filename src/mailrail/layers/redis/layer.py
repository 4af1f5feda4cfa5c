"""The Redis layer: durable, fenced, for many machines. It picks a store by its ``CONFIG``."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from channels_redis.core import RedisChannelLayer as ChannelsRedisLayer
from django.conf import settings as django_settings
from django.db import DEFAULT_DB_ALIAS

from ...errors import InvalidSettings
from ...namespace import current
from ...options import Mistakes
from ..layer import DurableLayer
from ..outbox import Outbox
from .channels import EphemeralChannels
from .cluster import Cluster
from .damage import MOST, in_words
from .keys import Keys
from .records import Cipher
from .servers import Server, check_version, concerns, read_hosts
from .shards import RedisShards
from .store import RedisStore


class RedisChannelLayer(EphemeralChannels, DurableLayer):
    """Take all of ``channels_redis.core.RedisChannelLayer`` in ``CONFIG``, and these options. ``routing``: the path of
    a list of routes. ``using``: the database whose transactions sends wait for. ``cluster``: whether ``hosts`` are
    nodes of one cluster. ``outbox``: whether sends are written to that database, and relayed after the commit."""

    is_durable = True
    is_shared = True

    def __init__(
        self,
        hosts: Any = None,
        prefix: str = "asgi",
        *,
        routing: str | None = None,
        using: str = "default",
        cluster: bool = False,
        outbox: bool = False,
        symmetric_encryption_keys: Sequence[str | bytes] | None = None,
        **config: Any,
    ) -> None:
        mistakes = Mistakes(InvalidSettings)
        for text in _wrong(prefix, using, outbox, symmetric_encryption_keys):
            mistakes.add(InvalidSettings(text))
        with mistakes.noted():
            read = read_hosts(hosts)
            servers = [Cluster(read)] if cluster else [Server(host) for host in read]
        mistakes.raise_any(InvalidSettings)
        if namespace := current():
            prefix = f"{prefix}/{namespace}"
        ChannelsRedisLayer.__init__(
            self, hosts, prefix, symmetric_encryption_keys=symmetric_encryption_keys, **config
        )
        self._keys, self._cipher = Keys(prefix, cluster), Cipher(symmetric_encryption_keys)
        self.stores = [RedisStore(server, self._keys, self._cipher) for server in servers]
        store = self.stores[0] if len(self.stores) == 1 else RedisShards(self.stores)
        DurableLayer.__init__(self, store, using, routing)
        self.orders_channels = not cluster and len(servers) == 1
        self.is_sharded = not self.orders_channels
        self.is_on_cluster = cluster
        if cluster:
            self.extensions: list[str] = []  # no groups: Channels and our checks look here
        self.outbox = Outbox(self, using) if outbox else None
        self.joins_transactions = outbox
        self._shards: dict[Server, RedisChannelLayer] = {}
        self._sharing = threading.Lock()  # the worker asks for shards, and its maintenance for hosts

    # -- shards -------------------------------------------------------------------------------------------------

    def shards(self, channels: Iterable[str]) -> Mapping[DurableLayer, list[str]]:
        store = self._store
        if isinstance(store, RedisShards):
            hosts = store.by_store(channels).items()
            with self._sharing:
                return {self._shard(host.server, host): names for host, names in hosts}
        [one] = self.stores
        if not isinstance(one.server, Cluster):
            return super().shards(channels)
        homes: dict[Server, list[str]] = {}
        with one.server.plain_words():
            for channel in channels:  # without a node for its slot, it is put to any, whose claims tell it
                homes.setdefault(one.server.home_of(self._keys.hash_tag(channel)), []).append(channel)
        with self._sharing:
            self._shards = {node: shard for node, shard in self._shards.items() if not node.has_left}
            return {self._shard(node): names for node, names in homes.items()}

    def each_host(self) -> Sequence[DurableLayer]:
        if not isinstance(self._store, RedisShards):
            return [self]
        with self._sharing:
            return [self._shard(store.server, store) for store in self._store.stores]

    def _shard(self, server: Server, store: RedisStore | None = None) -> RedisChannelLayer:
        """Return the layer of one host, or of one node, which still follows slots that move. Call it with the lock."""
        if server not in self._shards:
            [cluster, *_] = self.stores
            shard = copy.copy(self)
            shard.stores = [store or RedisStore(cluster.server, self._keys, self._cipher, server)]
            DurableLayer.__init__(shard, shard.stores[0], self.using, self.routing)
            shard.outbox = self.outbox
            shard.is_sharded, shard.orders_channels = self.is_on_cluster, not self.is_on_cluster
            self._shards[server] = shard
        return self._shards[server]

    # -- the servers' health ------------------------------------------------------------------------------------

    def concerns(self) -> list[str]:
        texts: list[str] = []
        try:
            for node in (node for store in self.stores for node in store.server.nodes()):
                info = node.info("server", "memory", "persistence")
                check_version(node.name, info)
                texts += concerns(node.name, info)
        finally:
            for store in self.stores:
                store.server.close()  # commands ask, and then fork
        return texts

    def unreadable(self) -> list[str]:
        return [
            text
            for store in self.stores
            for channel, damage in store.run_on_each(store.channel_list.read(), "unreadable", MOST)
            for text in in_words(channel, *damage)
        ]


def _wrong(prefix: str, using: str, outbox: Any, keys: Any) -> Iterator[str]:
    if not isinstance(prefix, str):
        yield f"CONFIG['prefix'] of the Redis layer must be a string, not {prefix!r}."
    if not isinstance(outbox, bool):
        yield f"CONFIG['outbox'] of the Redis layer must be True or False, not {outbox!r}."
    if using != DEFAULT_DB_ALIAS and using not in django_settings.DATABASES:
        yield f"CONFIG['using'] of the Redis layer names the database {using!r}, which is not in DATABASES."
    if isinstance(keys, str | bytes) or not all(isinstance(key, str | bytes) and key for key in keys or ()):
        yield "CONFIG['symmetric_encryption_keys'] must be a list of keys: the first one encrypts."
    if keys and find_spec("cryptography") is None:
        yield "CONFIG['symmetric_encryption_keys'] needs the package cryptography: pip install cryptography."
