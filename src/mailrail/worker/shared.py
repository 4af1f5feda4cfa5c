"""What the claim loops of one worker share: pools, capacity, and when to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..layers import DurableLayer
from ..messages import Message
from ..routes import Plan
from .capacity import Capacity
from .pools import EventLoop, Threads
from .recycling import RecyclingLimits


class IsolatedRuns(Protocol):
    """Run claims in processes of their own."""

    def run(self, message: Message, ended: Callable[[bool | None], None]) -> None:
        """Start a process for this message. It reports by ``ended``: True (well), False (died), None (not started)."""

    def cancel_pending(self) -> None:
        """Drop this worker's pending requests; each is reported as not started."""


class Loop(Protocol):
    """What each of the loops tells the others."""

    layer: DurableLayer
    dry_at: float  # time.monotonic() when it began to look, and found nothing due

    @property
    def running(self) -> int:
        """Return how many runs run."""


@dataclass(eq=False)
class Shared:
    """Hold what the claim loops of one worker share."""

    layer: DurableLayer  # as a whole
    worker: str
    capacity: Capacity
    isolated_runs: IsolatedRuns | None
    drain: bool
    is_claiming: bool
    event_loop: EventLoop = field(default_factory=EventLoop)
    stopping: threading.Event = field(default_factory=threading.Event)
    stop_at: float = float("inf")  # time.monotonic()
    worked_at: float = 0.0  # time.monotonic() when a loop last claimed something, or ended it
    should_recycle: bool = False
    loops: Sequence[Loop] = ()

    @property
    def plans(self) -> Mapping[str, Plan]:
        """Return the routes of each channel that the worker serves."""
        return self.capacity.plans

    @property
    def threads(self) -> Threads:
        """Return the pool in which sync consumers run."""
        return self.capacity.threads

    @property
    def recycling(self) -> RecyclingLimits:
        """Return when this process has to be replaced."""
        return self.capacity.recycling

    def stop(self, timeout: float) -> None:
        """Claim nothing more, and end after so many seconds at the latest."""
        self.stop_at = min(self.stop_at, time.monotonic() + timeout)
        self.stopping.set()
        self.layer.wake()
        for loop in self.loops:
            loop.layer.wake()

    def is_dry(self) -> bool:
        """Was nothing due anywhere since something last ran? Consumers may send to other servers."""
        return all(loop.dry_at > self.worked_at for loop in self.loops)
