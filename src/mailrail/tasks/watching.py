"""Tell running tasks that they were cancelled, or that their claim is another's; kill those that are to be killed.

One thread of a process asks the database for all of its watched tasks together. Tasks that end soon cost no query.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from django.db import connections

from mailrail.log import logger_of
from mailrail.transient import is_outage
from mailrail.worker import IncomingMessage, kill_run

from .models import TaskRecord

POLL_INTERVAL_S = 0.8
"""Seconds between two queries of a process."""
MIN_AGE_S = 0.4
"""Seconds that a task runs before it is asked for."""
IDS_PER_QUERY = 500
KILL_REASON = "somebody cancelled it by hard=True"

logger = logger_of("mailrail.tasks")


@dataclass(eq=False, slots=True)
class RunState:
    """Hold what a running attempt may want to know. ``was_told``: its code has asked, and is cancelled."""

    id: UUID
    token: int
    using: str
    message: IncomingMessage
    batch_id: UUID | None = None
    """Of the batch that the task follows, or is a member of."""
    started_at: float = field(default_factory=time.monotonic)
    is_cancelled: bool = False
    is_cancelled_hard: bool = False
    is_lost: bool = False
    was_told: bool = False

    def tell_cancelled(self) -> bool:
        """Tell the task's code whether it is cancelled, and remember the answer."""
        self._look()
        self.was_told = self.is_cancelled
        return self.is_cancelled

    def tell_lost(self) -> bool:
        """Tell the task's code whether its claim is another's."""
        self._look()
        return self.is_lost

    def _look(self) -> None:
        """Ask the database now if no worker runs the task: ``drain`` runs it in the transaction of a test."""
        if not self.message.in_worker and not _is_on_event_loop():
            refresh([self], self.using)


def _is_on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def refresh(states: Iterable[RunState], using: str) -> None:
    """Read what the records of these attempts say now."""
    by_id: dict[UUID, list[RunState]] = {}
    for state in states:
        by_id.setdefault(state.id, []).append(state)
    ids = list(by_id)
    records = TaskRecord._base_manager.using(using).values_list(
        "pk", "token", "cancelled_at", "is_cancelled_hard"
    )
    for begin in range(0, len(ids), IDS_PER_QUERY):
        some = ids[begin : begin + IDS_PER_QUERY]
        found = {row[0]: row[1:] for row in records.filter(pk__in=some)}
        for state in (state for id in some for state in by_id[id]):
            token, cancelled_at, is_hard = found.get(state.id, (None, None, False))
            state.is_lost = token != state.token
            state.is_cancelled = cancelled_at is not None and not state.is_lost
            state.is_cancelled_hard = is_hard and state.is_cancelled


class RunWatcher:
    """Refresh the states of running attempts on a thread of its own, which starts with the first of them."""

    def __init__(self) -> None:
        self._states: set[RunState] = set()
        self._lock = threading.Lock()
        self._is_needed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, state: RunState) -> Iterator[None]:
        """Watch an attempt while the block runs, if a worker runs it."""
        if not state.message.in_worker:
            yield
            return
        with self._lock:
            self._states.add(state)
            self._is_needed.set()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="mailrail-tasks", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._states.discard(state)

    def _run(self) -> None:
        while True:
            with self._lock:
                is_idle = not self._states
                if is_idle:
                    self._is_needed.clear()
            if is_idle:
                connections.close_all()
            self._is_needed.wait()
            time.sleep(POLL_INTERVAL_S)
            self._refresh()

    def _refresh(self) -> None:
        """Refresh what has run for a moment. A database that is away is asked again the next time."""
        by_database: dict[str, list[RunState]] = {}
        before = time.monotonic() - MIN_AGE_S
        with self._lock:
            for state in self._states:
                if state.started_at <= before:
                    by_database.setdefault(state.using, []).append(state)
        for using, states in by_database.items():
            try:
                refresh(states, using)
                for state in states:
                    if state.is_cancelled_hard:
                        kill_run(state.message.id, KILL_REASON)
            except Exception as error:
                connections[using].close()
                level = logger.debug if is_outage(error) else logger.error
                level("cannot ask whether running tasks are cancelled: %s", error)


watcher = RunWatcher()
