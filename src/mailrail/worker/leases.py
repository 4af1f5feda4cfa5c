"""Keeping claims alive while their consumers run, on a thread of its own with its own connection."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from ..backoff import Backoff
from ..errors import LayerUnavailable
from ..layers import DurableLayer
from ..messages import Message
from ..transient import OUTAGES, is_outage
from .connections import close_connections, own_connection
from .heartbeat import Heartbeat
from .log import logger
from .presence import Neighbours

HEARTBEAT_INTERVAL_S = 5.0
LONGEST_INTERVAL_S = HEARTBEAT_INTERVAL_S / 4
"""Seconds between two looks at what is due, where no lease is short."""
RENEWAL_TIMEOUT_S = 1.0
"""Seconds after which a renewal that failed is not tried again channel by channel: the server does not answer."""


def clock() -> float:
    """Seconds, those that the machine sleeps among them where it can tell: leases go on meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


Kept: TypeAlias = tuple[Message, float, float]
"""A claim, the seconds of its lease, and when that began at the earliest, by ``clock``."""


class LeaseKeeper:
    """Renews every claim after a third of its lease. With ``heartbeat``, it also gives the worker's sign of life, and
    looks whose supervisor is gone.

    ``leases`` returns the seconds by channel. Call ``wake`` when they have changed.
    """

    def __init__(
        self,
        layer: DurableLayer,
        leases: Callable[[], Mapping[str, float]],
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._layer = layer
        self._leases = leases
        self._heartbeat = heartbeat
        self.late_at = float("inf")
        """The earliest moment, by ``clock``, when ``catch_up`` may have something to do."""
        self._kept: dict[int, Kept] = {}  # by the number of the message's id: a UUID takes long to look up
        self._lock = threading.Lock()
        self._is_over = False
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mailrail-leases", daemon=True)
        self._beaten_at = float("-inf")
        self._backoff = Backoff(LONGEST_INTERVAL_S, LONGEST_INTERVAL_S)
        self._recording = Backoff(HEARTBEAT_INTERVAL_S, HEARTBEAT_INTERVAL_S)
        self._neighbours = Neighbours(layer)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look at once: the leases have changed, and claims may have to be renewed more often."""
        self._woken.set()

    def stop(self) -> None:
        self._is_over = True
        self._woken.set()
        self._thread.join(timeout=5)

    def keep(self, claims: Iterable[Message], since: float | None = None) -> None:
        """Renew these from now on. ``since``: when their leases began at the earliest, by ``clock``."""
        since, leases = clock() if since is None else since, self._leases()
        with self._lock:
            for claim in claims:
                lease = leases[claim.channel]
                self._kept[claim.id.int] = claim, lease, since
                if since + lease * 2 / 3 < self.late_at:
                    self.late_at = since + lease * 2 / 3

    def safe_until(self, claim: Message) -> float:
        """Until then, by ``clock``, nobody else can have claimed this message."""
        with self._lock:
            kept = self._kept.get(claim.id.int)
            if kept is None or kept[0].token != claim.token:
                return 0.0
            _, lease, renewed_at = kept
            return renewed_at + lease

    def forget(self, claims: Iterable[Message]) -> None:
        """Settled, or about to be. Newer claims of the same messages stay."""
        with self._lock:
            for claim in claims:
                kept = self._kept.get(claim.id.int)
                if kept is not None and kept[0].token == claim.token:
                    del self._kept[claim.id.int]

    def catch_up(self, limits: dict[str, int]) -> dict[str, int]:
        """Renew before anybody here claims, if this process stood still for so long that its own claims may lapse.

        Returns the limits without the channels whose claims could not be renewed: there, what is claimed may be what
        runs here. Raises why, if no channel is left.
        """
        if not self._late():
            return limits
        try:
            self._renew()
        except LayerUnavailable:
            late = self._late()
            limits = {channel: limit for channel, limit in limits.items() if channel not in late}
            if not limits:
                raise
        return limits

    def _late(self) -> set[str]:
        """Return the channels of claims whose lease is two thirds over."""
        with self._lock:
            late_at = [(at + lease * 2 / 3, claim.channel) for claim, lease, at in self._kept.values()]
        self.late_at, now = min((at for at, _ in late_at), default=float("inf")), clock()
        return {channel for at, channel in late_at if now >= at}

    def _run(self) -> None:
        with own_connection(self._layer):
            while self._should_continue():
                try:
                    self._renew()
                    self._beat()
                    self._neighbours.look()
                    self._backoff.succeeded()
                except Exception as error:
                    self._tell(error)
                    close_connections()
            self._deregister()

    def _should_continue(self) -> bool:
        """Wait until claims may be due: so often that the shortest lease is never near its end."""
        self._woken.wait(min([*self._leases().values(), LONGEST_INTERVAL_S * 12]) / 12)
        self._woken.clear()
        return not self._is_over

    def _tell(self, error: Exception) -> None:
        """Log the first error of those in a row."""
        if not self._backoff.failed():
            return
        if is_outage(error):
            logger.warning("leases cannot be renewed just now, trying again: %s", error)
        else:
            logger.error("renewing leases failed, trying again", exc_info=error)

    def _renew(self) -> None:
        """Renew what is due. Where all at once fails, renew channel by channel: on a cluster, slots move one by one."""
        now = clock()
        with self._lock:
            due = [claim for claim, lease, at in self._kept.values() if now - at >= lease / 3]
        if not due:
            return
        try:
            self._renew_together(due, now)
        except LayerUnavailable:
            if not self._renew_apart(due, now):
                raise

    def _renew_apart(self, due: Iterable[Message], now: float) -> bool:
        """Tell whether that has worked for all of several channels."""
        by_channel: dict[str, list[Message]] = {}
        for claim in due:
            by_channel.setdefault(claim.channel, []).append(claim)
        are_renewed = len(by_channel) > 1
        for group in by_channel.values() if are_renewed else ():
            if clock() - now > RENEWAL_TIMEOUT_S:
                return False
            try:
                self._renew_together(group, now)
            except LayerUnavailable:
                are_renewed = False
        return are_renewed

    def _renew_together(self, due: list[Message], now: float) -> None:
        lost = self._layer.renew(due, self._leases())
        with self._lock:
            for claim in due:
                kept = self._kept.get(claim.id.int)
                if kept is not None and kept[0] is claim:
                    self._kept[claim.id.int] = claim, kept[1], now
        self.forget(lost)

    def _beat(self) -> None:
        if self._heartbeat is not None and time.monotonic() - self._beaten_at >= HEARTBEAT_INTERVAL_S:
            self._heartbeat.beat(self._layer)
            self._beaten_at = time.monotonic()
            self._neighbours.list()
            self._record(self._heartbeat)

    def _record(self, heartbeat: Heartbeat) -> None:
        """Hand over the history. Where that fails, say so once; the leases and the neighbours do not depend on it."""
        try:
            heartbeat.record(self._layer)
            self._recording.succeeded()
        except Exception as error:
            if self._recording.failed():
                trace = None if is_outage(error) else error
                logger.warning(
                    "the history cannot be recorded just now, trying again: %s", error, exc_info=trace
                )
            close_connections()

    def _deregister(self) -> None:
        try:
            if self._heartbeat is not None:
                self._heartbeat.end(self._layer)
        except OUTAGES as error:
            logger.debug("the worker could not be deregistered: %s", error)
        finally:
            close_connections()
