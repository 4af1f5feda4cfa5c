"""Keeping claims alive while their consumers run, on a thread of its own with its own connection."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from django.db import Error

from ..errors import LayerUnavailable
from ..layers import DurableLayer
from ..messages import Content, Message
from ..transient import is_transient
from .connections import close_connections, own_connection
from .log import logger

HEARTBEAT_EVERY = 5.0
OUTAGES = (LayerUnavailable, Error, OSError)
"""What layers raise of their server or file. No worker ends over it: it tries again, whatever it is."""


def is_outage(error: BaseException) -> bool:
    """Tell whether waiting helps, as opposed to a statement that will be refused again."""
    return isinstance(error, OSError) or is_transient(error)


def clock() -> float:
    """Seconds, those that the machine sleeps among them where it can tell: leases go on meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


@dataclass(slots=True)
class _Kept:
    claim: Message
    renewed_at: float  # by clock()
    asked_at: float  # the same, or later: somebody else may have it, of which nobody was told


class LeaseKeeper:
    """Renews every claim after a third of its lease, and gives the worker's sign of life, if ``describe`` is given."""

    def __init__(
        self,
        layer: DurableLayer,
        worker: str,
        leases: Mapping[str, float],
        describe: Callable[[], Content] | None = None,
    ) -> None:
        self._layer = layer
        self._worker = worker
        self._leases = leases
        self._describe = describe
        self._kept: dict[UUID, _Kept] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mailrail-leases", daemon=True)
        self._beaten_at = float("-inf")
        self._in_outage = False
        self._away: frozenset[str] = frozenset()  # channels whose part of the layer could not be reached

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    def keep(self, claims: Iterable[Message], since: float | None = None) -> None:
        """Renew these from now on. ``since``: when their leases began at the earliest, by ``catch_up``."""
        since = clock() if since is None else since
        with self._lock:
            for claim in claims:
                self._kept[claim.id] = _Kept(claim, since, since)

    def lease(self, leases: Mapping[str, float]) -> None:
        """Replace the leases of the channels, in seconds: there are more of them now."""
        self._leases = leases

    def safe_until(self, claim: Message) -> float:
        """Until then, by ``clock``, nobody else can have claimed this message."""
        with self._lock:
            kept = self._kept.get(claim.id)
            if kept is None or kept.claim.token != claim.token:
                return 0.0
            return kept.renewed_at + self._leases[claim.channel]

    def forget(self, claim: Message) -> None:
        """Settled, or about to be. A newer claim of the same message stays."""
        with self._lock:
            kept = self._kept.get(claim.id)
            if kept is not None and kept.claim.token == claim.token:
                del self._kept[claim.id]

    def catch_up(self) -> float:
        """Renew before anybody here claims, if this process stood still for so long that its own claims may lapse.

        Returns the moment from which on the leases of what is claimed next may count.
        """
        if self._is_late():
            try:
                self._renew()
            except LayerUnavailable as error:
                if error.channels is None:
                    raise
        return clock()

    def _is_late(self) -> bool:
        now = clock()
        with self._lock:
            return any(
                now - k.asked_at >= self._leases[k.claim.channel] * 2 / 3
                for k in self._kept.values()
                if k.claim.channel not in self._away
            )

    def _run(self) -> None:
        with own_connection(self._layer):
            self._keep_on()

    def _keep_on(self) -> None:
        every = min([*self._leases.values(), HEARTBEAT_EVERY * 3]) / 12
        while not self._over.wait(every):
            try:
                self._renew()
                self._beat()
                self._in_outage = False
            except Exception as error:
                self._tell(error)
                close_connections()
        self._say_goodbye()

    def _tell(self, error: Exception) -> None:
        """Log the first error of those in a row."""
        if not self._in_outage:
            if is_outage(error):
                logger.warning("leases cannot be renewed just now, trying again: %s", error)
            else:
                logger.error("renewing leases failed, trying again", exc_info=error)
        self._in_outage = True

    def _renew(self) -> None:
        now = clock()
        with self._lock:
            due = [k for k in self._kept.values() if now - k.asked_at >= self._leases[k.claim.channel] / 3]
        if not due:
            return
        try:
            lost = self._layer.renew([kept.claim for kept in due], self._leases)
        except LayerUnavailable as error:
            self._part_is_away(error.channels, due, now)
            raise
        self._away = frozenset()
        for kept in due:
            kept.renewed_at = kept.asked_at = now
        for claim in lost:
            self.forget(claim)

    def _part_is_away(self, channels: frozenset[str] | None, due: Iterable[_Kept], now: float) -> None:
        """The claims of other channels were renewed, or are lost."""
        self._away = channels or frozenset()
        for kept in due:
            if channels is not None and kept.claim.channel not in channels:
                kept.asked_at = now

    def _beat(self) -> None:
        if self._describe is not None and time.monotonic() - self._beaten_at >= HEARTBEAT_EVERY:
            self._layer.heartbeat(self._worker, self._describe())
            self._beaten_at = time.monotonic()

    def _say_goodbye(self) -> None:
        if self._describe is None:
            close_connections()
            return
        try:
            self._layer.heartbeat(self._worker, None)
        except OUTAGES as error:
            logger.debug("could not say goodbye: %s", error)
        finally:
            close_connections()
