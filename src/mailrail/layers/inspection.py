"""Inspection, a part of a layer's contract: lists in pages, and single messages, for people.

Nothing here is counted, and of long contents and errors only a part is read, so that a page costs the same whatever
there is. ``channels``: those to look at, at most a few hundred at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from heapq import nlargest, nsmallest
from typing import Literal, TypeAlias
from uuid import UUID

from ..messages import DeadMessage, Message, MessageSummary, Place

Waiting: TypeAlias = Literal["ready", "scheduled", "claimed"]

PREVIEW_LENGTH = 500
"""Characters of a content that lists read; bytes, on Redis."""
ERROR_LENGTH = 2000
"""Likewise of an error, at its end, where the exception is."""
WINDOW = 5_000
"""Messages among which claims are looked for, where no index has them: those that are due next."""


class Inspection(ABC):
    """Hold the verbs of inspection. All of them only read."""

    @abstractmethod
    def list_channels(self) -> list[str]:
        """The channels that hold a message, dead ones too, or are paused; perhaps some that did lately. In order."""

    @abstractmethod
    def list_waiting(
        self,
        channels: Sequence[str],
        limit: int,
        after: Place | None = None,
        state: Waiting | None = None,
    ) -> list[MessageSummary]:
        """The messages that wait or are claimed, soonest due first; ``after``: those behind that place.

        ``state``: only those that are ready (due, a lapsed lease among them), scheduled (not due yet), or claimed.
        Claims are looked for among the next ``WINDOW`` due of all channels, where no index has them.
        """

    @abstractmethod
    def list_dead(
        self,
        channels: Sequence[str],
        limit: int,
        before: Place | None = None,
        error_class: str | None = None,
    ) -> list[MessageSummary]:
        """The dead messages, last buried first; ``before``: those behind that place. By an index, both ways.

        ``error_class``: only those that died of it (``messages.error_class``).
        """

    @abstractmethod
    def error_classes(self, channels: Sequence[str]) -> list[str]:
        """What the dead messages of these channels died of, each once, in order; ``""`` is what was no exception."""

    @abstractmethod
    def get(self, channel: str, id: UUID) -> Message | None:
        """The message with this id, if it waits or is claimed."""

    @abstractmethod
    def get_dead(self, channel: str, id: UUID) -> DeadMessage | None:
        """The dead message with this id."""


def soonest(found: Iterable[MessageSummary], limit: int) -> list[MessageSummary]:
    """The first of several lists together."""
    return nsmallest(limit, found, key=lambda it: it.place)


def latest(found: Iterable[MessageSummary], limit: int) -> list[MessageSummary]:
    """The last ones, backwards."""
    return nlargest(limit, found, key=lambda it: it.place)
