"""How much a worker process has been used, and when that is enough: consumers leak, and so do what they import."""

from __future__ import annotations

import os
import random
import resource
import sys
import time
from pathlib import Path

LOOK_EVERY = 1.0
"""Seconds between two looks at the memory in use."""
JITTER = 0.1
"""A process makes do with up to so much less than its limits, so that not all of them end at the same time."""
_STATM = Path("/proc/self/statm")


class Wear:
    """Tells one worker when it has run enough messages, or takes too much memory. ``None``: no limit.

    Memory counts from the first message on. Otherwise a limit below the memory of an empty process would end processes
    before they have done anything.
    """

    def __init__(self, max_messages: int | None = None, max_memory: int | None = None) -> None:
        self._messages = None if max_messages is None else max_messages - _jitter(max_messages)
        self._memory = None if max_memory is None else max_memory - _jitter(max_memory)
        self._begun = 0
        self._look_at = 0.0  # time.monotonic()

    @property
    def left(self) -> float:
        """Messages that may still be begun."""
        return float("inf") if self._messages is None else self._messages - self._begun

    def count(self, messages: int) -> None:
        self._begun += messages

    def verdict(self) -> str | None:
        """Why this process should be replaced, if it should."""
        if self.left <= 0:
            return f"it has taken on {self._begun:,} message(s), the most it may"
        if self._memory is None or not self._begun or time.monotonic() < self._look_at:
            return None
        self._look_at = time.monotonic() + LOOK_EVERY
        used = resident()
        if used <= self._memory:
            return None
        return f"it takes {megabytes(used)} of memory, and may take {megabytes(self._memory)}"


def resident() -> int:
    """Bytes of memory that this process has in RAM; where /proc does not tell, the most it ever had."""
    try:
        pages = int(_STATM.read_bytes().split()[1])  # proc(5)
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # getrusage(2) of either system
    return pages * os.sysconf("SC_PAGE_SIZE")


def megabytes(size: int) -> str:
    return f"{size / 1024**2:.0f}M"


def _jitter(limit: int) -> int:
    return random.randint(0, int(limit * JITTER))
