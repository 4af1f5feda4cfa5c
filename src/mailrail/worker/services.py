"""Services: what an app does beside the work of each worker process, on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from ..backoff import Backoff
from ..layers import DurableLayer
from ..transient import is_outage
from .connections import close_connections, own_connection, tidy_after
from .log import logger

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 10.0
"""Seconds between two tries of a service that failed: the first ones, and the longest."""
KEEP_CONNECTION_S = 2.0
"""A connection is kept for the next look of a service if that comes within so many seconds."""

Look: TypeAlias = Callable[[], float | None]
"""Does what is due, and returns the seconds until the next look; ``None``: there will be nothing to do."""

_looks: dict[str, Look] = {}


def register_service(name: str, look: Look) -> None:
    """Have each worker process call ``look`` from its start on, unless it only drains. ``name`` is for its log."""
    _looks[name] = look


class ServiceThreads:
    """Run the registered services beside a worker until ``over`` is set."""

    def __init__(self, layer: DurableLayer, over: threading.Event) -> None:
        self._services = [_ServiceThread(name, look, layer, over) for name, look in _looks.items()]
        self._over = over

    def start(self) -> None:
        for service in self._services:
            service.thread.start()

    def stop(self) -> None:
        self._over.set()
        for service in self._services:
            if service.thread.is_alive():
                service.thread.join(timeout=3)


class _ServiceThread:
    def __init__(self, name: str, look: Look, layer: DurableLayer, over: threading.Event) -> None:
        self._name, self._look, self._layer, self._over = name, look, layer, over
        self._backoff = Backoff(FIRST_BACKOFF_S, LONGEST_BACKOFF_S, jitter=0.25)
        self.thread = threading.Thread(target=self._run, name=f"mailrail-{name}", daemon=True)

    def _run(self) -> None:
        try:
            pause: float | None = 0.0
            while pause is not None and not self._over.wait(pause):
                pause = self._try()
        finally:
            close_connections()

    def _try(self) -> float | None:
        """Look once, and return the seconds until the next look. What fails is told once, and tried again."""
        try:
            with own_connection(self._layer):
                pause = self._look()
            self._backoff.succeeded()
        except Exception as error:
            if self._backoff.failed():
                trace = None if is_outage(error) else error
                logger.error("%s has to wait, trying again: %s", self._name, error, exc_info=trace)
            pause = self._backoff.delay
        if pause is None or pause > KEEP_CONNECTION_S or self._backoff.failures:
            close_connections()
        tidy_after()
        return pause
