"""End the transactions of runs that are past their time limit where all others wait for the lock of such a transaction.

SQLite has one writer. A claim loop that waits for it, to claim or to settle, looks at no limits meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .log import logger

if TYPE_CHECKING:
    from .consume import ConsumerRun

POLL_INTERVAL_S = 0.25
"""Seconds between two looks. Runs that end sooner are never looked at."""
GRACE_S = 0.5
"""Seconds behind the limit in which the claim loop is expected to notice by itself."""


class LockWatch:
    """Look at the runs that hold a write lock, on a thread of its own, which starts with the first of them."""

    def __init__(self) -> None:
        self._runs: set[ConsumerRun] = set()
        self._lock = threading.Lock()
        self._is_needed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, run: ConsumerRun) -> Iterator[None]:
        """Watch a run while the block holds its transaction open."""
        with self._lock:
            self._runs.add(run)
            self._is_needed.set()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="mailrail-locks", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._runs.discard(run)

    def _watch(self) -> None:
        while True:
            self._is_needed.wait()
            time.sleep(POLL_INTERVAL_S)
            with self._lock:
                overdue = [run for run in self._runs if run.overdue_at + GRACE_S <= time.monotonic()]
                if not self._runs:
                    self._is_needed.clear()
            for run in overdue:
                self._end(run)

    def _end(self, run: ConsumerRun) -> None:
        """Decide as the claim loop does, which then takes in that the run is over."""
        try:
            run.give_up()
            run.abandon()
        except Exception:
            logger.exception(
                "the transaction of %s is past its time limit, and cannot be ended", run.route.name
            )


lock_watch = LockWatch()
