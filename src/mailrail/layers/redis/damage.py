"""What is stored and cannot be read, by whoever was at it: it is told, and stops nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...log import logger_of
from ...terminal import counted

logger = logger_of("mailrail.layers")

MOST = 1000
"""Messages at the front of each of a channel's keys that a check looks at."""


class Damage:
    """Tells of channels that cannot be claimed from, each reason once."""

    def __init__(self) -> None:
        self._reported: set[tuple[str, bytes]] = set()

    def report(self, broken: Iterable[tuple[str, bytes]]) -> None:
        """Log channels with what the server says of them."""
        for channel, reason in broken:
            if (channel, reason) not in self._reported:
                self._reported.add((channel, reason))
                logger.error(
                    "nothing can be claimed from channel %s, other channels go on: %s. A key of it was overwritten; "
                    "see: manage.py channels check",
                    channel,
                    reason.decode("utf-8", "backslashreplace"),
                )


def in_words(channel: str, odd: bytes, messages: int, dead: int) -> Sequence[str]:
    """Return what ``unreadable.lua`` has found on a channel."""
    texts = []
    if odd:
        texts.append(f"channel {channel} cannot be used: its keys {odd.decode()} are of another type")
    if messages:
        texts.append(
            f"{counted(messages, 'message')} of channel {channel} cannot be read; a worker sets them aside"
        )
    if dead:
        texts.append(f"{counted(dead, 'dead message')} of channel {channel} cannot be read: discard them")
    return texts
