"""The arithmetic of the token bucket behind ``take``, the same on every layer that does it in Python."""

from __future__ import annotations

from typing import NamedTuple

from ..messages import Rate


class Bucket(NamedTuple):
    """Hold what a bucket had when it was last filled (Unix seconds)."""

    tokens: float
    filled_at: float


def refill(tokens: float, elapsed: float, n: int, rate: Rate) -> tuple[float, int, float]:
    """Fill the bucket for ``elapsed`` seconds, then take up to ``n`` tokens (below zero: give back).

    Returns what is left in it, how many were granted, and in how many seconds there is a next one (0.0 when all
    were granted).
    """
    speed = rate.count / rate.seconds
    tokens = min(float(rate.count), tokens + max(0.0, elapsed) * speed)
    granted = n if n < 0 else min(n, int(tokens + 1e-9))
    tokens = min(float(rate.count), tokens - granted)
    return tokens, granted, 0.0 if granted == n else max(0.0, 1 - tokens) / speed
