"""The layer cannot be used: say so once, and try again, less and less often."""

from __future__ import annotations

import random
import threading
import time

from .connections import distrust_connections
from .log import logger

LONGEST_BACKOFF = 5.0
"""Seconds between two tries to reach the layer at most."""


class Outages:
    """Counts how often in a row the layer could not be used."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._failures = 0

    def over(self) -> None:
        """The layer could be used."""
        self._failures = 0

    def wait(self, error: Exception, stop_at: float) -> None:
        """Until the next try; not beyond ``stop_at`` (time.monotonic())."""
        if self._failures == 0:
            logger.error("the layer cannot be used just now, trying again until it can: %s", error)
        self._failures += 1
        distrust_connections()
        delay = min(LONGEST_BACKOFF, 0.05 * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1)
        if self._stopping.is_set():  # no event will end this wait; keep to the deadline, and do not spin
            time.sleep(max(0.0, min(delay, stop_at - time.monotonic())))
        else:
            self._stopping.wait(delay)
