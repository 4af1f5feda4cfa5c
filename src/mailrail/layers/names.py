"""The names of a project in a storage that it shares with others: ``MAILRAIL["NAMESPACE"]``.

A layer qualifies the names of channels, buckets and workers on their way into its store, and gives bare ones back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from ..messages import Message, check_channel_name
from ..namespace import Qualified
from .store import ClaimCall


@dataclass(frozen=True)
class Names:
    """Qualify names, and give bare ones back. Without a prefix, nothing of it changes a name or costs much."""

    prefix: str = ""
    qualify: Callable[[str], str] = str  # a bucket or a worker
    channel: Callable[[str], str] = str  # raises ValueError for what is no name, where there is a prefix
    bare: Callable[[str], str] = str
    # Under the names of their channels in the store.
    stored: Callable[[Iterable[Message]], list[Message]] = list
    own: Callable[[Iterable[Any]], list[Any]] = list  # messages and summaries of the store, under bare names

    def call(self, call: ClaimCall) -> ClaimCall:
        """Return a call of ``claim`` under the names in the store."""
        return ClaimCall(
            self.qualify(call.worker),
            {self.channel(channel): room for channel, room in call.limits.items()},
            {self.channel(channel): lease for channel, lease in call.leases.items()},
            self.stored(call.finished),
            call.total,
        )


def names_with(prefix: str) -> Names:
    """Return the names of a project whose stored ones have this prefix."""
    if not prefix:
        return Names()

    def qualify(bare: str) -> str:
        return Qualified(prefix + bare)

    def channel(bare: str) -> str:
        return Qualified(prefix + check_channel_name(bare))

    def bare(stored: str) -> str:
        return stored[len(prefix) :]

    def stored(messages: Iterable[Message]) -> list[Message]:
        return [replace(message, channel=channel(message.channel)) for message in messages]

    def own(rows: Iterable[Any]) -> list[Any]:
        return [
            replace(row, channel=bare(row.channel), worker=None if row.worker is None else bare(row.worker))
            for row in rows
        ]

    return Names(prefix, qualify, channel, bare, stored, own)
