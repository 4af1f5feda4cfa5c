"""Where the unclaimed messages begin, remembered while dead rows lie before them.

Claiming and finishing leave dead versions of rows behind, at the front of the index that claims read. Vacuum removes
them once a minute by default. It removes nothing while some transaction still holds an old snapshot (a dump, a
forgotten session). Then each claim reads past all of them, and gets slower with every message. So after some slow
claims in a row, the last one remembers where it found its messages. For a while, the next claims begin there.

This is only a hint, and it ends. A message may lie before the remembered place: it was committed late, released, or has
a new priority. It waits for the next claim that begins at the front. Such a claim takes one part in `SHARE` of the
time. The quickest of the last few claims counts: a slow one may have met a lock on the table or a full disk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

SLOW = 0.001
"""Seconds from which on a claim is worth avoiding. From then on one begins at the front every 10 ms or so: soon enough
that to be wrong costs nobody anything."""
IN_A_ROW = 5
"""Slow claims before that is taken for the rows' fault; a machine may just be busy."""
SHARE = 10
"""Claims from the front take one part in so many of the time."""


class Level(NamedTuple):
    channel: str
    priority: int


@dataclass
class _Known:
    floors: dict[Level, float]
    until: float  # time.monotonic()


@dataclass
class Frontier:
    """What each worker of this process knows."""

    _known: dict[str, _Known] = field(default_factory=dict)
    _slow: dict[str, list[float]] = field(default_factory=dict)  # seconds of the last claims from the front

    def floors(self, worker: str) -> Mapping[Level, float] | None:
        """The lowest ``due`` that is still there, per channel and priority; ``None``: begin at the front."""
        known = self._known.get(worker)
        if known is None or time.monotonic() >= known.until:
            return None
        return known.floors

    def learn(
        self,
        worker: str,
        floors: Mapping[Level, float] | None,
        found: Sequence[tuple[Level, float]],
        seconds: float,
        full: bool,
    ) -> None:
        """After a claim from these floors: the dues it found, how long it took, and whether there may be more.

        A claim that was not full has seen everything from its floors on; what is left lies before them.
        """
        if floors is None:
            slow = [*self._slow.get(worker, ()), seconds][-IN_A_ROW:] if full and seconds > SLOW else []
            self._slow[worker] = slow
            if len(slow) == IN_A_ROW:
                self._known[worker] = _Known(_highest(found), time.monotonic() + SHARE * min(slow))
        elif full and worker in self._known:
            self._known[worker].floors = {**floors, **_highest(found)}
        else:
            self._known.pop(worker, None)

    def forget(self) -> None:
        """Begin at the front: stored times were moved."""
        self._known.clear()
        self._slow.clear()


def _highest(found: Sequence[tuple[Level, float]]) -> dict[Level, float]:
    highest: dict[Level, float] = {}
    for level, due in found:
        highest[level] = max(due, highest.get(level, due))
    return highest
