"""Say it once, then wait: when to try again what fails, and whether a failure is news."""

from __future__ import annotations

import random
import time

chance = random.SystemRandom()
"""Draw delays from the system: the seed of a project stays as it is, and processes that were forked draw others."""


class Backoff:
    """Count failures in a row. Delays double from ``first`` to ``longest`` seconds.

    ``jitter``: the share by which a delay may be shorter, so that processes do not try again all at once.
    """

    def __init__(self, first: float, longest: float, jitter: float = 0.5) -> None:
        self.failures = 0
        self._first = first
        self._longest = longest
        self._jitter = jitter
        self._failed_at = float("-inf")

    def failed(self) -> bool:
        """Count a failure. Tell whether it is news: the first one after all went well for ``longest`` seconds."""
        now = time.monotonic()
        is_news = not self.failures and now - self._failed_at > self._longest
        self.failures += 1
        self._failed_at = now
        return is_news

    def succeeded(self) -> None:
        """Begin anew with the next failure."""
        self.failures = 0

    @property
    def delay(self) -> float:
        """Return the seconds to wait after the last failure; 0 if there was none."""
        if not self.failures:
            return 0.0
        delay = min(self._longest, self._first * 2.0 ** min(self.failures - 1, 30))
        return delay * chance.uniform(1 - self._jitter, 1)
