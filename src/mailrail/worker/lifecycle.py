"""The states of a worker and of each of its claim loops, and the one table of what changes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from ..backoff import Backoff
from ..layers import DurableLayer
from ..transient import is_outage
from .connections import distrust_connections
from .log import logger

if TYPE_CHECKING:
    from .consume import ConsumerRun

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 5.0
"""Seconds between two tries to reach a server: the first ones, and the longest."""


class State(StrEnum):
    """Say what a worker, or one of its claim loops, does."""

    RUNNING = "running"  # claims, consumes and settles
    RECOVERING = "recovering"  # cannot use its server: waits, and tries the same again
    DRAINING = "draining"  # claims nothing more, and ends when what it has claimed has run
    STOPPING = "stopping"  # likewise; gives back what has not begun, and at the deadline what still runs


class Event(StrEnum):
    """Name what changes a state."""

    FAILED = "a round failed"
    SUCCEEDED = "a round did not fail"
    NOTHING_DUE = "nothing is due, and the worker was to end then"
    TOLD_TO_STOP = "the worker was told to stop, or is to be replaced"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.RUNNING, Event.FAILED): State.RECOVERING,
    (State.RUNNING, Event.NOTHING_DUE): State.DRAINING,
    (State.RUNNING, Event.TOLD_TO_STOP): State.STOPPING,
    (State.RECOVERING, Event.SUCCEEDED): State.RUNNING,
    (State.RECOVERING, Event.NOTHING_DUE): State.DRAINING,
    (State.RECOVERING, Event.TOLD_TO_STOP): State.STOPPING,
    (State.DRAINING, Event.TOLD_TO_STOP): State.STOPPING,
}
"""The next state. An event that is not named for a state changes nothing: who claims nothing more never does again."""

ENDING = (State.DRAINING, State.STOPPING)


class Lifecycle:
    """Hold the state of a worker, or of one of its claim loops: with ``worker``, it ends when that one does."""

    def __init__(self, worker: WorkerLifecycle | None = None) -> None:
        self.state = State.RUNNING
        self.is_failing = False
        self._backoff = Backoff(FIRST_BACKOFF_S, LONGEST_BACKOFF_S)
        self._worker = worker
        self._loops = WeakSet[Lifecycle]()
        self._changing: threading.Lock = worker._changing if worker else threading.Lock()
        if worker:
            with self._changing:
                worker._loops.add(self)
                if worker.state in ENDING:
                    self.state = worker.state

    def on(self, event: Event) -> None:
        """Change the state as the table says, and those of the loops if it is the end."""
        with self._changing:
            self.state = TRANSITIONS.get((self.state, event), self.state)
            for loop in self._loops if self.state in ENDING else ():
                loop.state = TRANSITIONS.get((loop.state, event), loop.state)

    def succeeded(self) -> None:
        """Take in that the server could be used again."""
        self.is_failing = False
        self._backoff.succeeded()
        self.on(Event.SUCCEEDED)

    def back_off(self, error: Exception, until: WorkerLifecycle) -> None:
        """Say once that the server cannot be used, and wait until the next try; not beyond the worker's deadline."""
        self.is_failing = True
        self.on(Event.FAILED)
        if self._backoff.failed():
            # Somebody has to mend that one, and needs to know where.
            trace = None if is_outage(error) else error
            logger.error(
                "the layer cannot be used just now, trying again until it can: %s", error, exc_info=trace
            )
        distrust_connections()
        if not until.stopping.is_set():
            until.stopping.wait(self._backoff.delay)
        else:  # no event ends this wait
            time.sleep(max(0.0, min(self._backoff.delay, until.deadline - time.monotonic())))


class Loop(Protocol):
    """What each claim loop tells the others."""

    layer: DurableLayer
    empty_at: float  # time.monotonic() when it began to look, and found nothing due

    @property
    def running(self) -> AbstractSet[ConsumerRun]:
        """Return what runs."""


class WorkerLifecycle(Lifecycle):
    """Hold the state of the worker, and what decides on its end. ``drain``: end when nothing is due."""

    def __init__(self, drain: bool) -> None:
        super().__init__()
        self.drain = drain
        self.deadline = float("inf")  # time.monotonic()
        self.stopping = threading.Event()
        self.worked_at = 0.0  # time.monotonic() when a loop last claimed something, or ended it
        self.should_recycle = False
        self.loops: Sequence[Loop] = ()

    def stop(self, timeout: float) -> None:
        """Claim nothing more, and end after so many seconds at the latest."""
        self.deadline = min(self.deadline, time.monotonic() + timeout)
        self.on(Event.TOLD_TO_STOP)
        self.stopping.set()
        for loop in self.loops:
            loop.layer.wake()

    def end_if_nothing_due(self) -> None:
        """End if nothing was due anywhere since something last ran: consumers may send to other servers."""
        if all(loop.empty_at > self.worked_at for loop in self.loops):
            self.on(Event.NOTHING_DUE)
