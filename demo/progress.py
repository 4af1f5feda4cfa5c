"""A progress bar on a terminal; elsewhere a line for every tenth."""

from __future__ import annotations

import sys

WIDTH = 40


class Progress:
    """Shows how many of ``total`` are done; ``show`` may be called as often as one likes."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._tenths = 0
        self._on_terminal = sys.stdout.isatty()

    def show(self, done: int) -> None:
        if self._on_terminal:
            filled = WIDTH * done // self._total
            bar = "█" * filled + "░" * (WIDTH - filled)
            print(f"\r  {self._label} {bar} {done}/{self._total}", end="", flush=True)
        elif (tenths := 10 * done // self._total) > self._tenths:
            self._tenths = tenths
            print(f"  {self._label} {done}/{self._total}", flush=True)

    def end(self) -> None:
        """Leave the line of the bar."""
        if self._on_terminal:
            print()
