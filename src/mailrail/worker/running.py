"""For whom the calling code runs: what is sent on a message's behalf can be told from what an earlier run has sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from ..routing import Route
from .incoming import IncomingMessage

moved: ContextVar[float] = ContextVar("mailrail.moved", default=0.0)
"""Seconds by which a test has moved the stored times, of the message, too (``mailrail.testing.advance``)."""


class Run:
    """One run of a consumer, for one message."""

    def __init__(self, message: IncomingMessage) -> None:
        self.message = message
        self._numbers: defaultdict[str, set[int]] = defaultdict(set)

    @property
    def of(self) -> str:
        """Names the send that has brought the message: the same in each of its runs.

        Messages that are told apart by their content have their id again when they are sent anew; the time says so.
        """
        accepted = (self.message.claim.sent_at or 0.0) + moved.get()
        return f"{self.message.id}:{round(accepted * 1000)}"

    def numbers(self, what: str) -> set[int]:
        """Those by which this run has told the same apart so far; the caller adds to it."""
        return self._numbers[what]


_current: ContextVar[Run | None] = ContextVar("mailrail.run", default=None)


def current_run() -> Run | None:
    """The run that the calling code is part of. ``None`` outside consumers, and in batches: whose work is it there?"""
    return _current.get()


@contextmanager
def running(route: Route, messages: Sequence[IncomingMessage]) -> Iterator[None]:
    """Inside the block, ``current_run`` tells."""
    token = _current.set(Run(messages[0]) if route.policy.batch is None else None)
    try:
        yield
    finally:
        _current.reset(token)
