"""The limiters of this process, to be asked again at once when what they wait for is over."""

from __future__ import annotations

import time
from typing import Protocol
from weakref import WeakSet


class Reopenable(Protocol):
    """Wait for a mailer."""

    def waits_for(self, mailer: str) -> bool:
        """Tell whether email may leave by this mailer."""

    mailer: str | None
    open_at: float

    def reopen(self) -> None:
        """Let the worker ask again now."""


_limiters: WeakSet[Reopenable] = WeakSet()


def add(limiter: Reopenable) -> None:
    """Tell a limiter when a mailer can take more."""
    _limiters.add(limiter)


def close(mailer: str, seconds: float) -> None:
    """Let this process claim no email of this mailer for so long."""
    until = time.monotonic() + seconds
    for limiter in list(_limiters):
        if limiter.mailer == mailer:
            limiter.open_at = max(limiter.open_at, until)


def reopen(mailer: str) -> None:
    """Let this process claim email again that this mailer may take: it works, or has a free connection."""
    for limiter in list(_limiters):
        if limiter.waits_for(mailer):
            limiter.reopen()
