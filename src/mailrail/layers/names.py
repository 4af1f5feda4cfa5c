"""The names of a project in a storage that it shares with others: ``MAILRAIL["NAMESPACE"]``.

A layer qualifies the names of channels, buckets and workers on their way into its store, and gives bare ones back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from ..messages import Message, MessageSummary, check_channel_name
from ..namespace import Qualified, owns
from .store import ClaimCall

Named = TypeVar("Named", Message, MessageSummary)


class Names:
    """Qualify names by a prefix, and take it away. Without a prefix, all of it changes nothing."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def qualify(self, bare: str) -> str:
        """Return the stored name of a bucket or a worker."""
        return Qualified(self.prefix + bare) if self.prefix else bare

    def channel(self, bare: str) -> str:
        """Return the stored name of a channel. Raises ``ValueError`` for what is no name, where there is a prefix."""
        return Qualified(self.prefix + check_channel_name(bare)) if self.prefix else bare

    def channels(self, bare: Sequence[str]) -> Sequence[str]:
        return [self.channel(name) for name in bare] if self.prefix else bare

    def owns(self, stored: str) -> bool:
        """Tell whether a stored name is ours: without a prefix, names that have one are others'."""
        return owns(stored, self.prefix)

    def bare(self, stored: str) -> str:
        return stored[len(self.prefix) :]

    def stored(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return messages under the names of their channels in the store."""
        if not self.prefix:
            return messages
        return [replace(message, channel=self.channel(message.channel)) for message in messages]

    def call(self, call: ClaimCall) -> ClaimCall:
        """Return a call of ``claim`` under such names."""
        return ClaimCall(
            self.qualify(call.worker),
            {self.channel(channel): room for channel, room in call.limits.items()},
            {self.channel(channel): lease for channel, lease in call.leases.items()},
            self.stored(call.finished),
            call.total,
        )

    def own(self, stored: Iterable[Named]) -> list[Named]:
        """Return what a store has returned under its bare names."""
        if not self.prefix:
            return list(stored)
        return [
            replace(
                each,
                channel=self.bare(each.channel),
                worker=None if each.worker is None else self.bare(each.worker),
            )
            for each in stored
        ]
