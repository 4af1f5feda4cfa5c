"""What the keys of a layer are called on the server."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from ...messages import check_channel_name
from .servers import glob_of

_OF_CHANNEL = "channel:"
"""What the names of buckets of a channel's rate begin with. No name of a channel has a colon."""

REMEMBERED = 4096
"""Channels whose keys a process need not put together anew."""


class Keys:
    """The keys that begin with ``mailrail:`` and the layer's prefix."""

    def __init__(self, prefix: str, is_cluster: bool) -> None:
        self._prefix = prefix
        self._is_cluster = is_cluster
        remember = lru_cache(REMEMBERED)
        self.hash_tag: Callable[[str], bytes] = remember(self._hash_tag)
        self.listing: Callable[[str], tuple[bytes, ...]] = remember(self._listing)

    def _hash_tag(self, channel: str) -> bytes:
        """What the keys of a channel begin with; in braces, so that they lie in one slot of a cluster."""
        return f"{{mailrail:{self._prefix}:{channel}}}".encode()

    def _listing(self, channel: str) -> tuple[bytes, ...]:
        """For a script that puts the channel on its server's list, which on a cluster lies elsewhere.

        Raises ``ValueError`` for what is no name of a channel.
        """
        hash_tag = self.hash_tag(check_channel_name(channel))
        return (hash_tag,) if self._is_cluster else (hash_tag, self.of_layer("channels"))

    def of_layer(self, name: str) -> bytes:
        """A key that belongs to no channel."""
        return f"{{mailrail:{self._prefix}}}:{name}".encode()

    def bucket(self, name: str) -> bytes:
        """Return the key of a bucket. That of a channel's rate lies where the channel does, so that no other server
        or node can keep the channel waiting."""
        if channel := channel_of(name):
            return self.hash_tag(channel) + b":bucket"
        return f"{{mailrail:{self._prefix}:bucket:{name}}}".encode()

    def all_buckets(self) -> tuple[bytes, bytes]:
        """Return the patterns of the keys of all buckets."""
        of_layer, of_prefix = glob_of(self.bucket("")[:-1]), glob_of(self.hash_tag("")[:-1])
        return of_layer, of_prefix + b"}:bucket"


def channel_of(bucket: str) -> str:
    """Return the channel whose rate this bucket keeps; an empty string, if it is another one."""
    return bucket.removeprefix(_OF_CHANNEL) if bucket.startswith(_OF_CHANNEL) else ""
