"""The layer cannot be used: say so once, and try again, less and less often."""

from __future__ import annotations

import random
import threading
import time

from .connections import distrust_connections
from .leases import is_outage
from .log import logger

LONGEST_BACKOFF = 5.0
"""Seconds between two tries to reach the layer at most."""
OVER_AFTER = 60.0
"""Seconds without a failure after which a layer that has parts can be used again as a whole, and a failure is news."""


class Outages:
    """Counts how often in a row the layer could not be used."""

    def __init__(self, stopping: threading.Event, is_sharded: bool = False) -> None:
        self._stopping = stopping
        self._is_sharded = is_sharded
        self._failures = 0
        self._is_told = False
        self._failed_at = 0.0

    def over(self) -> None:
        """The layer could be used; if it has parts, it may have been another part of it."""
        self._failures = 0
        self._is_told = self._is_told and self._is_sharded

    def wait(self, error: Exception, stop_at: float) -> None:
        """Until the next try; not beyond ``stop_at`` (time.monotonic())."""
        if not self._is_told or time.monotonic() - self._failed_at > OVER_AFTER:
            trace = (
                None if is_outage(error) else error
            )  # somebody has to mend that one, and needs to know where
            logger.error(
                "the layer cannot be used just now, trying again until it can: %s", error, exc_info=trace
            )
        self._is_told, self._failed_at = True, time.monotonic()
        self._failures += 1
        distrust_connections()
        delay = min(LONGEST_BACKOFF, 0.05 * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1)
        if self._stopping.is_set():  # no event will end this wait; keep to the deadline, and do not spin
            time.sleep(max(0.0, min(delay, stop_at - time.monotonic())))
        else:
            self._stopping.wait(delay)
