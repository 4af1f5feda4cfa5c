"""Ask, before each claim, how many messages of a channel may start now: ``route(…, limiter=…)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .layers import DurableLayer
from .messages import Message


class Allowance(NamedTuple):
    """Say how many messages may start now, at most. ``wait``: if none may, seconds until the limiter is asked again."""

    limit: int
    wait: float = 0.0


class Limiter:
    """Say how many messages of a channel may start now. Subclasses define ``allow``.

    Each claim loop of each worker process makes one object, by ``limiter(channel, layer)``, and calls it on one thread.
    What does not start waits on the layer, and costs nothing there.
    """

    def __init__(self, channel: str, layer: DurableLayer) -> None:
        self.channel = channel
        self.layer = layer
        self.open_at = 0.0
        """``time.monotonic()`` before which ``allow`` is not asked; ``reopen`` ends it."""
        self.times_reopened = 0

    def allow(self, wanted: int) -> Allowance:
        """Return how many messages may start, of so many that the worker has room for.

        Whether messages wait is not known yet.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define allow().")

    def claimed(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Note what was claimed after ``allow``. Return those that must not start after all.

        It is nothing where no message waits, and where the claim fails or is not made, for want of a thread say.
        """
        return ()

    def reopen(self) -> None:
        """Let the worker ask ``allow`` now, however long the last answer said to wait. Any thread may call this."""
        self.times_reopened += 1  # an answer that is under way does not count any more
        self.open_at = 0.0
        self.layer.wake()
