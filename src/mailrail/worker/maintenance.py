"""What a worker process does beside the work, each on a thread of its own, as it may take long.

Maintenance relays the outbox, reconciles records and messages, and finds channels that nobody serves. Services are
what apps register, such as the schedule of ``mailrail.schedule``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TypeAlias

from ..backoff import Backoff, chance
from ..conf import settings
from ..layers import DurableLayer
from ..missing_tables import migration_for, with_migration
from ..reconciliation import Reconciler, ScanPosition, reconcilers, take_turn
from ..signals import worker_maintenance
from ..transient import is_outage
from .connections import close_connections, own_connection, tidy_after
from .log import logger
from .outcomes import send_signal

RELAY_INTERVAL_S = 1.0
"""Seconds between two looks into the outbox, for what senders could not relay right after their commit."""
SCAN_INTERVAL_S = 60.0
"""Seconds between two looks at all channels; the first comes after ``RELAY_INTERVAL_S``."""
LONGEST_BACKOFF_S = 5.0
"""Seconds between two looks while the layer, or the database, cannot be used."""
FIRST_SERVICE_BACKOFF_S, LONGEST_SERVICE_BACKOFF_S = 1.0, 10.0
"""Seconds between two tries of a service that failed: the first ones, and the longest."""
KEEP_CONNECTION_S = 2.0
"""A connection is kept for the next look of a service if that comes within so many seconds."""

Look: TypeAlias = Callable[[], float | None]
"""Do what is due, and return the seconds until the next look; ``None``: there will be nothing to do."""

_services: dict[str, Look] = {}


def register_service(name: str, look: Look) -> None:
    """Have each worker process call ``look`` from its start on, unless it only drains. ``name`` is for its log."""
    _services[name] = look


class BackgroundThread:
    """Look again and again until ``over`` is set."""

    def __init__(self, name: str, look: Look, over: threading.Event) -> None:
        self._look, self._over = look, over
        self._pause: float | None = 0.0
        self.thread = threading.Thread(target=self._run, name=f"mailrail-{name}", daemon=True)

    def start(self, pause: float = 0.0) -> None:
        """Look for the first time after so many seconds."""
        self._pause = pause
        self.thread.start()

    def stop(self) -> None:
        self._over.set()
        if self.thread.is_alive():
            self.thread.join(timeout=3)

    def _run(self) -> None:
        try:
            while self._pause is not None and not self._over.wait(self._pause):
                self._pause = self._look()
        finally:
            close_connections()


class Maintenance:
    """Run beside a worker until ``over`` is set.

    ``scan`` checks all channels; ``channels`` are those that the worker serves.
    """

    def __init__(
        self,
        layer: DurableLayer,
        over: threading.Event,
        scan: Callable[[], None],
        channels: Collection[str] = (),
    ) -> None:
        self._layer = layer
        self._over = over
        self._scan_channels = scan
        self.channels = channels
        self._scan_at = time.monotonic() + RELAY_INTERVAL_S
        self._only_scans = False
        due = reconcilers(layer) if settings.reconcile_every is not None else []
        self._reconcilers = [(reconciler, ScanPosition()) for reconciler in due]
        self._reconcile_at = time.monotonic() + RELAY_INTERVAL_S
        self._thread = BackgroundThread("maintenance", self._round, over)
        self._backoff = Backoff(RELAY_INTERVAL_S * 2, LONGEST_BACKOFF_S, jitter=0.25)

    def start(self, only_scan: bool = False) -> None:
        """``only_scan``: leave the outbox and reconciliation to others."""
        self._only_scans = only_scan
        self._thread.start(self._pause())

    def stop(self) -> None:
        self._thread.stop()

    def _pause(self) -> float:
        """Seconds until the next look; not in all processes at the same moment."""
        if self._backoff.failures:
            return self._backoff.delay
        if self._layer.outbox and not self._only_scans:
            return RELAY_INTERVAL_S * chance.uniform(0.75, 1)
        reconcile_at = self._reconcile_at if self._reconcilers and not self._only_scans else float("inf")
        return max(0.0, min(self._scan_at, reconcile_at) - time.monotonic())

    def _round(self) -> float:
        """Do what is due, say once what cannot be done just now, and return the seconds until the next look."""
        try:
            own = () if self._only_scans else (self._relay, self._reconcile)
            do_all((*own, self._scan))
            self._backoff.succeeded()
        except Exception as error:
            if self._backoff.failed():
                logger.warning(
                    "the outbox, reconciliation and the look at all channels have to wait: %s",
                    error,
                    exc_info=None if is_outage(error) else error,
                )
            close_connections()
        finally:
            tidy_after()
        return self._pause()

    def _relay(self) -> None:
        if self._layer.outbox and self._layer.outbox.is_due:
            self._layer.outbox.relay()

    def _reconcile(self) -> None:
        every = settings.reconcile_every
        if every is None or not self._reconcilers or time.monotonic() < self._reconcile_at:
            return
        is_ours = take_turn(self._layer)
        self._reconcile_at = time.monotonic() + every
        if is_ours:
            do_all(partial(self._run_one, reconciler, place) for reconciler, place in self._reconcilers)
        close_connections()  # not needed for a while

    def _run_one(self, reconciler: Reconciler, place: ScanPosition) -> None:
        """What an app's function raises is its own matter, and keeps nothing else from running."""
        try:
            reconciler.run(go_on=lambda: not self._over.is_set(), place=place)
        except Exception as error:
            if is_outage(error):
                raise
            logger.exception("%s failed", reconciler.name)

    def _scan(self) -> None:
        if time.monotonic() < self._scan_at:
            return
        with own_connection(self._layer):
            self._scan_channels()
        # If it has failed, the next one comes after the backoff.
        self._scan_at = time.monotonic() + SCAN_INTERVAL_S
        for channel in self.channels:
            send_signal(worker_maintenance, channel)
        close_connections()  # not needed for a while


class ServiceThreads:
    """Run the registered services beside a worker until ``over`` is set."""

    def __init__(self, layer: DurableLayer, over: threading.Event) -> None:
        self._threads = [
            BackgroundThread(name, _Service(name, look, layer), over) for name, look in _services.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        for thread in self._threads:
            thread.stop()


class _Service:
    def __init__(self, name: str, look: Look, layer: DurableLayer) -> None:
        self._name, self._look, self._layer = name, look, layer
        self._backoff = Backoff(FIRST_SERVICE_BACKOFF_S, LONGEST_SERVICE_BACKOFF_S, jitter=0.25)

    def __call__(self) -> float | None:
        """Look once, and return the seconds until the next look. What fails is told once, and tried again."""
        try:
            with own_connection(self._layer):
                pause = self._look()
            self._backoff.succeeded()
        except Exception as error:
            if self._backoff.failed():
                trace = None if is_outage(error) or migration_for(error) else error
                text = with_migration(error)
                logger.error("%s has to wait, trying again: %s", self._name, text, exc_info=trace)
            pause = self._backoff.delay
        if pause is None or pause > KEEP_CONNECTION_S or self._backoff.failures:
            close_connections()
        tidy_after()
        return pause


def do_all(tasks: Iterable[Callable[[], object]]) -> None:
    """Do all of them, and raise the first error then: each may need another server."""
    errors: list[Exception] = []
    for task in tasks:
        try:
            task()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
