"""The sign of life of a worker: what it tells of itself, and the history of what it did since the last one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mailrail

from ..conf import settings
from ..layers import DurableLayer
from ..messages import Content
from ..monitoring.counters import Counters
from .consume import ConsumerRun
from .history import flush
from .recycling import resident

MOST_SLOTS = 100
"""Runs that a heartbeat tells of."""


class Heartbeat:
    """Tell the layer of a worker with this id. ``facts`` returns what the worker knows beside its slots.

    ``runs`` returns what runs now. Of messages, only channels and ids are told, never contents. Durations are told
    instead of moments, as clocks of machines differ.
    """

    def __init__(
        self,
        worker: str,
        facts: Callable[[], Mapping[str, Any]],
        runs: Callable[[], list[ConsumerRun]],
        counters: Counters,
    ) -> None:
        self._worker, self._facts, self._runs, self._counters = worker, facts, runs, counters
        self._started_at = time.monotonic()

    def beat(self, layer: DurableLayer) -> None:
        """Say that the worker lives. Raise what the layer raises."""
        layer.heartbeat(self._worker, self.describe())

    def record(self, layer: DurableLayer) -> None:
        """Say what the worker did since the last time. Raise what the layer raises."""
        flush(layer, self._counters)

    def end(self, layer: DurableLayer) -> None:
        """Say what it did at last, and that it is gone. Raise what the layer raises."""
        try:
            self.record(layer)
        finally:
            layer.heartbeat(self._worker, None)

    def describe(self) -> Content:
        """Return what the layer is told."""
        runs = self._runs()
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": mailrail.__version__,
            "release": settings.release,
            "memory": resident(),
            "uptime": time.monotonic() - self._started_at,
            "running": len(runs),
            "slots": list(_slots(runs)),
            **self._facts(),
        }


def _slots(runs: list[ConsumerRun]) -> Iterator[Content]:
    """Yield what each slot runs; those in a process of their own are told by that one."""
    now = time.monotonic()
    for run in runs[:MOST_SLOTS]:
        if run.started_at is not None:
            yield {"channel": run.channel, "id": str(run.messages[0].id), "seconds": now - run.started_at}
