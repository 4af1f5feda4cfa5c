"""Maintenance beside the work: relay the outbox, reconcile records and messages, find channels that nobody serves.

It has a thread of its own, as it may take long.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection
from functools import partial

from ..conf import settings
from ..errors import LayerUnavailable
from ..layers import DurableLayer
from ..reconciliation import Reconciler, ScanPosition, reconcilers, take_turn
from .connections import close_connections, own_connection, tidy_after
from .events import send_maintenance
from .leases import is_outage
from .log import logger

RELAY_EVERY = 1.0
"""Seconds between two looks into the outbox, for what senders could not relay right after their commit."""
LOOK_EVERY = 60.0
"""Seconds between two looks at all channels; the first comes after ``RELAY_EVERY``."""
LONGEST_WAIT = 5.0
"""Seconds between two looks while the layer, or the database, cannot be used."""


class Maintenance:
    """Run beside a worker until ``over`` is set.

    ``look`` checks all channels; ``channels`` are those that the worker serves.
    """

    def __init__(
        self,
        layer: DurableLayer,
        over: threading.Event,
        look: Callable[[], None],
        channels: Collection[str] = (),
    ) -> None:
        self._layer = layer
        self._over = over
        self._look = look
        self.channels = channels
        self._look_at = time.monotonic() + RELAY_EVERY
        self._only_looks = False
        found = reconcilers(layer) if settings.reconcile_every is not None else []
        self._reconcilers = [(each, ScanPosition()) for each in found]
        self._reconcile_at = time.monotonic() + RELAY_EVERY
        self._thread = threading.Thread(target=self._run, name="mailrail-maintenance", daemon=True)
        self._failures = 0

    def start(self, only_look: bool = False) -> None:
        """``only_look``: leave the outbox and reconciliation to others."""
        self._only_looks = only_look
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=3)

    def _run(self) -> None:
        try:
            while not self._over.wait(self._pause()):
                self._round()
        finally:
            close_connections()

    def _pause(self) -> float:
        """Seconds until the next look; not in all processes at the same moment."""
        if self._failures:
            return min(LONGEST_WAIT, RELAY_EVERY * 2.0 ** min(self._failures, 10)) * random.uniform(0.75, 1)
        if self._layer.outbox and not self._only_looks:
            return RELAY_EVERY * random.uniform(0.75, 1)
        reconcile_at = self._reconcile_at if self._reconcilers and not self._only_looks else float("inf")
        return max(0.0, min(self._look_at, reconcile_at) - time.monotonic())

    def _round(self) -> None:
        try:
            if not self._only_looks:
                self._move()
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_EVERY
                with own_connection(self._layer):
                    self._look()
                for channel in self.channels:
                    send_maintenance(channel)
                close_connections()  # not needed for a while
            self._failures = 0
        except Exception as error:
            if not self._failures:
                trace = None if is_outage(error) else error
                logger.warning(
                    "the outbox, reconciliation and the look at all channels have to wait: %s",
                    error,
                    exc_info=trace,
                )
            self._failures += 1
            close_connections()
        finally:
            tidy_after()

    def _move(self) -> None:
        away: list[LayerUnavailable] = []
        if self._layer.outbox and self._layer.outbox.is_due:
            self._try(self._layer.outbox.relay, away)
        if self._reconcilers and time.monotonic() >= self._reconcile_at:
            self._reconcile(away)
        if away:
            raise away[0]

    def _try(self, do: Callable[[], object], away: list[LayerUnavailable]) -> None:
        """Where only a part of the layer may be away, the rest goes on; the error is for later."""
        try:
            do()
        except LayerUnavailable as error:
            if not self._layer.is_sharded:
                raise
            away.append(error)

    def _reconcile(self, away: list[LayerUnavailable]) -> None:
        every = settings.reconcile_every
        assert every is not None  # else there are no reconcilers
        if take_turn(self._layer):
            for reconciler, place in self._reconcilers:
                self._try(partial(self._run_one, reconciler, place), away)
        close_connections()  # not needed for a while
        self._reconcile_at = time.monotonic() + every

    def _run_one(self, reconciler: Reconciler, place: ScanPosition) -> None:
        """What an app's function raises is its own matter, and keeps nothing else from running."""
        try:
            reconciler.run(go_on=lambda: not self._over.is_set(), place=place)
        except Exception as error:
            if is_outage(error):
                raise
            logger.exception("%s failed", reconciler.name)
