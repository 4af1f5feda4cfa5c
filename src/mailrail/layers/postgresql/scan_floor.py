"""Where the unclaimed messages begin, remembered while dead rows lie before them.

Claiming and finishing leave dead versions of rows behind, at the front of the index that claims read. Vacuum removes
them once a minute by default. It removes nothing while some transaction still holds an old snapshot (a dump, a
forgotten session). Then each claim reads past all of them, and gets slower with every message. So after some slow
claims in a row, the last one remembers where it found its messages. For a while, the next claims begin there.

This is only a hint, and it ends. A message may lie before the remembered place: it was committed late, released, has a
new priority, or is of another channel. It waits for the next claim that begins at the front. That follows at once where
nothing is left from the remembered place on. Else such a claim takes one part in `FRONT_SHARE` of the time. The
quickest of the last few claims counts: a slow one may have met a lock on the table or a full disk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

SLOW_CLAIM_S = 0.001
"""Seconds from which on a claim is worth avoiding. From then on one begins at the front every 10 ms or so: soon enough
that to be wrong costs nobody anything."""
SLOW_CLAIMS_IN_A_ROW = 5
"""Slow claims before that is taken for the rows' fault; a machine may just be busy."""
FRONT_SHARE = 10
"""Claims from the front take one part in so many of the time."""


class Level(NamedTuple):
    channel: str
    priority: int


@dataclass
class _Known:
    min_dues: dict[Level, float]
    until: float  # time.monotonic()


@dataclass
class ScanFloor:
    """Know for each worker of this process where unclaimed messages begin."""

    _known: dict[str, _Known] = field(default_factory=dict)
    _slow: dict[str, list[float]] = field(default_factory=dict)  # seconds of the last claims from the front

    def min_dues(self, worker: str) -> Mapping[Level, float] | None:
        """Return the lowest ``due`` still there, per channel and priority; ``None``: begin at the front."""
        known = self._known.get(worker)
        if known is None or time.monotonic() >= known.until:
            return None
        return known.min_dues

    def learn(
        self,
        worker: str,
        min_dues: Mapping[Level, float] | None,
        found: Sequence[tuple[Level, float]],
        seconds: float,
        full: bool,
    ) -> None:
        """Learn from a claim that began at these dues: which it found, how long it took, and whether it was full.

        A claim that was not full has seen everything from there on; what is left lies before.
        """
        if min_dues is None:
            is_slow = full and seconds > SLOW_CLAIM_S
            slow = [*self._slow.get(worker, ()), seconds][-SLOW_CLAIMS_IN_A_ROW:] if is_slow else []
            self._slow[worker] = slow
            if len(slow) == SLOW_CLAIMS_IN_A_ROW:
                self._known[worker] = _Known(_highest(found), time.monotonic() + FRONT_SHARE * min(slow))
        elif full and worker in self._known:
            self._known[worker].min_dues = {**min_dues, **_highest(found)}
        else:
            self._known.pop(worker, None)

    def forget(self) -> None:
        """Begin at the front, as stored times were moved."""
        self._known.clear()
        self._slow.clear()


def _highest(found: Sequence[tuple[Level, float]]) -> dict[Level, float]:
    highest: dict[Level, float] = {}
    for level, due in found:
        highest[level] = max(due, highest.get(level, due))
    return highest
