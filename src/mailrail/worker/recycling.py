"""When a worker process has to be replaced: consumers leak memory, and so do the libraries they import."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

from ..backoff import chance
from ..terminal import counted

MEMORY_CHECK_INTERVAL_S = 1.0
"""Seconds between two looks at the memory in use."""
JITTER = 0.1
"""Share by which a process's limits may be lower than those asked for, so that not all processes end at once."""
_STATM = Path("/proc/self/statm")


class RecyclingLimits:
    """Tell one worker when it has run enough messages or uses too much memory. ``None``: no limit.

    Memory counts from the first message on. A limit below what an idle process uses would otherwise replace each
    process before it has run anything.
    """

    def __init__(self, max_messages: int | None = None, max_memory: int | None = None) -> None:
        self._messages = None if max_messages is None else max_messages - _jitter(max_messages)
        self._memory = None if max_memory is None else max_memory - _jitter(max_memory)
        self._started = 0
        self._look_at = 0.0  # time.monotonic()

    @classmethod
    def of(cls, max_messages: int | None, max_memory: int | None) -> RecyclingLimits | None:
        """Return these limits; ``None`` if there are none."""
        return None if max_messages is None and max_memory is None else cls(max_messages, max_memory)

    @property
    def left(self) -> float:
        """Return how many messages may still be started."""
        return float("inf") if self._messages is None else self._messages - self._started

    def count(self, messages: int) -> None:
        self._started += messages

    def reason(self) -> str | None:
        """Return why this process should be replaced, or ``None``."""
        if self.left <= 0:
            return f"it has run {counted(self._started, 'message')}, its limit"
        if self._memory is None or not self._started or time.monotonic() < self._look_at:
            return None
        self._look_at = time.monotonic() + MEMORY_CHECK_INTERVAL_S
        used = resident()
        if used <= self._memory:
            return None
        return f"it uses {megabytes(used)} of memory; its limit is {megabytes(self._memory)}"


def resident() -> int:
    """Return the bytes of this process in RAM; without /proc, the most it ever had there."""
    try:
        pages = int(_STATM.read_bytes().split()[1])  # proc(5)
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # getrusage(2) of either system
    return pages * os.sysconf("SC_PAGE_SIZE")


def megabytes(size: int) -> str:
    return f"{size / 1024**2:.0f}M"


def _jitter(limit: int) -> int:
    return chance.randint(0, int(limit * JITTER))
