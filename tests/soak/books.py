"""What has happened, read from the ledger and the workers' logs as they grow, and what must never happen in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

FINISHED = re.compile(r" INFO finished (\S+) (\S+) attempt=")
ALARMS = (" CRITICAL ", "renewing leases failed", "cannot be finished")
TOO_EARLY = 0.05
"""Seconds; the clocks of a consumer and of the database are the same, and are not read at the same time."""


class Tail:
    """The whole lines that have been added to a file since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def lines(self) -> list[str]:
        with self._path.open("rb") as file:
            file.seek(self._at)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        return whole.decode(errors="replace").splitlines()


class Books:
    """Counts runs and ends. ``violations``: what broke a promise, in words."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.failed: set[str] = set()
        self.finished: Counter[str] = Counter()
        self.violations: list[str] = []
        self._places: dict[str, int] = {}  # the last one that ran first, per lane

    @property
    def repeats(self) -> int:
        return self.ran.total() - len(self.ran)

    def read_ledger(self, lines: Iterable[str]) -> set[str]:
        """Returns the ids that were not seen before."""
        new: set[str] = set()
        for line in lines:
            what, id, channel, lane, n, _attempt, _losses, _pid, early = line.split()
            if float(early) > TOO_EARLY:
                self.violations.append(f"{id} on {channel} ran {early} s too early")
            if what == "failed":
                self.failed.add(id)
            if what != "ran":
                continue
            if id not in self.ran:
                new.add(id)
                self._check_order(id, lane, int(n))
            self.ran[id] += 1
        return new

    def read_log(self, name: str, lines: Iterable[str]) -> None:
        for line in lines:
            if found := FINISHED.search(line):
                id = found[2]
                self.finished[id] += 1
                if self.finished[id] == 2:
                    self.violations.append(f"{id} on {found[1]} was finished twice")
            elif any(alarm in line for alarm in ALARMS):
                self.violations.append(f"{name} said: {line}")

    def _check_order(self, id: str, lane: str, n: int) -> None:
        if lane == "-":
            return
        if n < self._places.get(lane, 0):
            self.violations.append(f"{id} ran as {n} of {lane}, after {self._places[lane]}")
        self._places[lane] = max(n, self._places.get(lane, 0))
