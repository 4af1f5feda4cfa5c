"""Sleeping until something may be due: by looking at what others did, or by what a server tells."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from ..backoff import chance
from .notifications import NotificationListener

POLL_INTERVAL_S = 0.02
"""Seconds between looks at what other processes did."""
FIRST_POLL_INTERVAL_S, LONGEST_POLL_INTERVAL_S = 0.02, 1.0
"""Seconds between two polls of a worker without notifications: the first, and the longest."""

Poll = Callable[[Sequence[str]], float | None]
"""``poll`` of the layer."""


class WaitStrategy(ABC):
    """Let threads of this process wait for messages, and wake them. ``fruitless``: claims in a row that got nothing."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.wakes = 0
        self.fruitless = 0

    def wake(self) -> None:
        """Make every ``wait`` return."""
        with self._condition:
            self.wakes += 1
            self._condition.notify_all()

    @abstractmethod
    def wait(self, poll: Poll, channels: Sequence[str], timeout: float, seen: int) -> None:
        """Return when something may be due, after more wakes than ``seen``, or after ``timeout`` seconds."""

    def close(self) -> None:  # noqa: B027 - there may be nothing to give up
        """Give up threads and connections; the next ``wait`` opens them again."""


class PolledWaiting(WaitStrategy):
    """Look at ``change`` again and again: it differs after another process changed what is stored, in microseconds."""

    def __init__(self, change: Callable[[], object]) -> None:
        super().__init__()
        self._change = change

    def wait(self, poll: Poll, channels: Sequence[str], timeout: float, seen: int) -> None:
        deadline = time.monotonic() + timeout
        changed = self._change()
        due_at = due_at_by(poll, channels)
        while (left := min(deadline, due_at) - time.monotonic()) > 0:
            with self._condition:
                if self._condition.wait_for(lambda: self.wakes != seen, min(left, POLL_INTERVAL_S)):
                    return
            if self._change() != changed:
                changed, due_at = self._change(), due_at_by(poll, channels)


class NotifiedWaiting(WaitStrategy):
    """Sleep until a ``NotificationListener`` hears something; poll while it cannot."""

    def __init__(self, listener_of: Callable[[NotifiedWaiting], NotificationListener]) -> None:
        super().__init__()
        self.listener = listener_of(self)
        self._poll_every = FIRST_POLL_INTERVAL_S

    def wait(self, poll: Poll, channels: Sequence[str], timeout: float, seen: int) -> None:
        deadline = time.monotonic() + timeout
        while self.wakes == seen:
            # In this order: a notification between the two counts as one wake more than `seen`.
            listening = self.listener.listen(channels) if channels else self.listener.is_live
            soon = due_at_by(poll, channels) - time.monotonic()
            if soon <= 0:
                self._poll_every = FIRST_POLL_INTERVAL_S
                soon = self._hesitation()
            left = min(deadline - time.monotonic(), soon)
            looks = self._poll_every * chance.uniform(0.75, 1.25) if channels and not listening else left
            if min(left, looks) > 0:
                self._sleep(min(left, looks), seen, listening)
            if time.monotonic() >= deadline or looks >= left == soon:
                return
            self._poll_every = min(LONGEST_POLL_INTERVAL_S, self._poll_every * 1.5)

    def _sleep(self, seconds: float, seen: int, listening: bool) -> None:
        with self._condition:
            self._condition.wait_for(
                lambda: self.wakes != seen or self.listener.is_live != listening, seconds
            )

    def look_again(self) -> None:
        """Make ``wait`` look again: listening has begun or ended, which changes how long it sleeps."""
        with self._condition:
            self._condition.notify_all()

    def _hesitation(self) -> float:
        """Return the seconds to wait before a claim of what is due although the last claims did not get it.

        Others claim it just now, or something holds it for a while.
        """
        return 0.0 if self.fruitless < 2 else min(0.05, 0.001 * 2 ** min(self.fruitless, 10))

    def close(self) -> None:
        self.listener.close()


def due_at_by(poll: Poll, channels: Sequence[str]) -> float:
    """Return when (time.monotonic()) something is due."""
    soon = poll(channels)
    return float("inf") if soon is None else time.monotonic() + soon
