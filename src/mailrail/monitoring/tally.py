"""Count what takes long to count, such as the members of a batch, in a small share of the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

SHARE = 1 / 200
"""Of the time of a process, for counting again."""
BUDGET_S = 0.01
"""Seconds after which one call begins no other count."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Tally(Generic[Key, Value]):
    """Remember what ``count`` has returned for each key, and count again those first that were counted longest ago."""

    def __init__(self, count: Callable[[Key], Value]) -> None:
        self._count = count
        self._values: dict[Key, Value] = {}
        self._counted_at: dict[Key, float] = {}  # monotonic
        self._allowed = BUDGET_S  # seconds that counting may take, as of the next
        self._allowed_at = time.monotonic()

    def values(self, keys: Sequence[Key]) -> dict[Key, Value]:
        """Return what is known of these keys, and forget all others. New keys are counted in their order.

        A key that no call had time for is missing.
        """
        self._values = {key: self._values[key] for key in keys if key in self._values}
        self._counted_at = {key: self._counted_at[key] for key in self._values}
        now = began = time.monotonic()
        self._allowed = min(BUDGET_S, self._allowed + (now - self._allowed_at) * SHARE)
        for key in sorted(keys, key=lambda key: self._counted_at.get(key, float("-inf"))):
            if now - began >= BUDGET_S or (key in self._values and self._allowed <= 0):
                break
            self._values[key] = self._count(key)
            before, now = now, time.monotonic()
            self._counted_at[key] = now
            self._allowed -= now - before
        self._allowed_at = now
        return self._values
