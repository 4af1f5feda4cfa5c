"""The message for which the calling code runs, so that a later run for it does not send the same again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from ..routes import Route
from .incoming import IncomingMessage

moved: ContextVar[float] = ContextVar("mailrail.moved", default=0.0)
"""Seconds by which a test has moved all stored times (``mailrail.testing.advance``), also the message's own."""


class ExecutionContext:
    """Describe one run of a consumer for one message."""

    def __init__(self, message: IncomingMessage) -> None:
        self.message = message
        self._ordinals: defaultdict[str, set[int]] = defaultdict(set)

    @property
    def key(self) -> str:
        """Return a name of the send that brought the message: the same in each of its runs.

        A message whose id comes from its content has the same id when it is sent anew, so the name has the time, too.
        """
        accepted = (self.message.claim.sent_at or 0.0) + moved.get()
        return f"{self.message.id}:{round(accepted * 1000)}"

    def ordinals(self, digest: str) -> set[int]:
        """Return the numbers of the equal items that this run has sent so far; the caller adds to them."""
        return self._ordinals[digest]


_current: ContextVar[ExecutionContext | None] = ContextVar("mailrail.run", default=None)


def current_execution() -> ExecutionContext | None:
    """Return the run that the calling code is part of; ``None`` outside consumers and in batches of many messages."""
    return _current.get()


@contextmanager
def execution_context(route: Route, messages: Sequence[IncomingMessage]) -> Iterator[None]:
    """Let ``current_execution`` return the run inside the block."""
    token = _current.set(ExecutionContext(messages[0]) if route.policy.batch is None else None)
    try:
        yield
    finally:
        _current.reset(token)
