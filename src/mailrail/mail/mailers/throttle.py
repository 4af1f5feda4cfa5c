"""Throttle each mailer over all workers: slow down when a server asks for it, and reserve times for what has to wait.

A server that asks for less (``replies.Verdict.slow_down``) gets half, at most once every ten seconds. Each quiet minute
adds a tenth, until the full rate is back: additive increase, multiplicative decrease. The full rate is the one at
which mail was leaving when the server first complained.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from django.db.models import F
from django.utils import timezone

from mailrail.log import logger_of
from mailrail.moments import after, seconds_between

from ..models import MailerThrottle
from ..smtp.log_recipients import masked

logger = logger_of("mailrail.mail")

MIN_S_BETWEEN_HALVINGS = 10.0
"""Within so many seconds, further complaints are about mail that was under way at the first one."""
RECOVERS_EVERY, RECOVERS_BY = 60.0, 0.1
MIN_SHARE = 1 / 128
MIN_PACE_PER_S = 1 / 60
"""Emails a second: never less, so that recovery is noticed."""
CACHE_S = 1.0
"""Seconds for which a process trusts what it has read, so that not every batch costs a query."""
MAX_RESERVATION_S = 900.0
"""Seconds ahead for which times are reserved. Emails beyond come again then, in the same order."""
RESERVATION_GRACE_S = 60.0
"""Seconds after the last reservation in which emails still ask for the next ones."""
GRID_S = 0.2
"""Seconds: reservations closer together than that are moved to the same moment, as one batch."""
MAX_TRIES = 20
"""How often a row is read anew that others keep changing, before it is left as it is."""


class Overflow(NamedTuple):
    """Emails over a rate, which need reservations: their priorities, in order.

    ``window`` names the rate among those of the mailer. ``first``: seconds until the first reservation. ``spacing``:
    seconds between two.
    """

    window: str
    priorities: Sequence[int]
    first: float
    spacing: float


# -- slowing down -----------------------------------------------------------------------------------------------------

_known: dict[tuple[str, str], tuple[float, Mapping[str, float]]] = {}


def slowed(mailer: str, using: str) -> Mapping[str, float]:
    """Return the emails a second for each recipient domain ("": all mail) where the server has asked for less."""
    read_at, paces = _known.get((mailer, using), (float("-inf"), {}))
    if time.monotonic() - read_at < CACHE_S:
        return paces
    rows = MailerThrottle.objects.using(using).filter(mailer=mailer, share__lt=1)
    paces = {row.domain: pace_of(row) for row in rows if not _recovers(row, using)}
    _known[mailer, using] = time.monotonic(), paces
    return paces


def known_slowed(mailer: str, using: str) -> Mapping[str, float]:
    """Return what ``slowed`` does, and read nothing while the last read found none. Each batch reads anew."""
    if (mailer, using) in _known and not _known[mailer, using][1]:
        return {}
    return slowed(mailer, using)


def pace_of(row: MailerThrottle) -> float:
    return _pace(row, row.share)


def pace_now(row: MailerThrottle) -> float | None:
    """Return the emails a second that a batch would find now; ``None``: as fast as before. Writes nothing."""
    share = _share_after(row, _quiet_periods(row))
    return None if share == 1 else _pace(row, share)


def _pace(row: MailerThrottle, share: float) -> float:
    return max(MIN_PACE_PER_S, row.pace * share)


def _quiet_periods(row: MailerThrottle) -> int:
    return int(seconds_between(row.changed_at, timezone.now()) / RECOVERS_EVERY)


def _share_after(row: MailerThrottle, periods: int) -> float:
    share = row.share + RECOVERS_BY * max(0, periods)
    return 1.0 if share > 0.999 else share


def slow_down(mailer: str, domain: str, pace: float, reason: str, using: str) -> None:
    """Note that the server asks for less to this domain ("": in all). ``pace``: emails a second that were leaving."""
    rows = MailerThrottle.objects.using(using)
    row, _ = rows.get_or_create(mailer=mailer, domain=domain)
    now = timezone.now()
    if row.share < 1 and seconds_between(row.changed_at, now) < MIN_S_BETWEEN_HALVINGS:
        return
    begins = row.share >= 1
    row.share = 0.5 if begins else max(MIN_SHARE, row.share / 2)
    row.pace = max(MIN_PACE_PER_S, pace) if begins else row.pace
    row.since = now if begins else row.since
    row.reason, row.changed_at = reason[:500], now
    if _save(row, using, "share", "pace", "since", "reason", "changed_at"):
        _known.pop((mailer, using), None)
        if begins:
            text = "Mailer %r is asked for less%s, and slows down to %.3g emails a second: %s"
            logger.warning(text, mailer or "default", to(domain), pace_of(row), masked(reason))


def _recovers(row: MailerThrottle, using: str) -> bool:
    """Raise the share after some quiet, and return whether it is whole again."""
    if (periods := _quiet_periods(row)) < 1:
        return False
    row.share = _share_after(row, periods)
    row.changed_at = after(row.changed_at, RECOVERS_EVERY * periods)
    if row.share == 1:
        row.since = None
    if _save(row, using, "share", "since", "changed_at") and row.share == 1:
        logger.warning("Mailer %r is as fast as before%s.", row.mailer or "default", to(row.domain))
        MailerThrottle.objects.using(using).filter(
            pk=row.pk, version=row.version + 1, reservations={}
        ).delete()
    return row.share == 1


def to(domain: str) -> str:
    """Return a clause for log messages."""
    return f" for mail to {domain}" if domain else ""


def _save(row: MailerThrottle, using: str, *names: str) -> bool:
    """Save these columns and return True, unless another process has changed the row since it was read."""
    values = {name: getattr(row, name) for name in names}
    mine = MailerThrottle.objects.using(using).filter(pk=row.pk, version=row.version)
    return bool(mine.update(**values, version=F("version") + 1))


# -- reservations -----------------------------------------------------------------------------------------------------


def reserve(mailer: str, domain: str, overflow: Overflow, using: str) -> list[float]:
    """Return the seconds until the reservation of each. Earlier ones come first, but for lower priorities."""
    for _ in range(MAX_TRIES):
        row, _created = MailerThrottle.objects.using(using).get_or_create(mailer=mailer, domain=domain)
        now = time.time()
        reservations = _future(row.reservations, now)
        waits = _reserve_in(reservations.setdefault(overflow.window, {}), overflow, now)
        row.reservations = reservations
        if _save(row, using, "reservations"):
            return waits
    return [overflow.first + overflow.spacing * n for n in range(len(overflow.priorities))]


def _future(reservations: Mapping[str, Mapping[str, float]], now: float) -> dict[str, dict[str, float]]:
    return {
        window: {priority: end for priority, end in line.items() if end > now}
        for window, line in reservations.items()
        if any(end > now for end in line.values())
    }


def _reserve_in(line: dict[str, float], overflow: Overflow, now: float) -> list[float]:
    waits = []
    for priority in overflow.priorities:
        before = [end for other, end in line.items() if int(other) >= priority]
        reserved_at = max([now + overflow.first, *(end + overflow.spacing for end in before)])
        if reserved_at <= now + MAX_RESERVATION_S:
            line[str(priority)] = reserved_at
        waits.append(min(_on_grid(reserved_at, overflow.spacing) - now, MAX_RESERVATION_S))
    return waits


def _on_grid(reserved_at: float, spacing: float) -> float:
    """Move a reservation to the end of its fifth of a second, a little behind its token: neighbours form a batch."""
    return reserved_at + 0.01 if spacing > GRID_S else math.ceil(reserved_at / GRID_S) * GRID_S


def cancel_reservations(mailer: str, using: str) -> None:
    """Drop all reservations: the mailer stops or starts, so that its mail waits for something else."""
    rows = MailerThrottle.objects.using(using).filter(mailer=mailer)
    rows.exclude(reservations={}).update(reservations={}, version=F("version") + 1)


def are_in_use(row: MailerThrottle) -> bool:
    """Tell whether email waits for a reservation, or will ask for the next ones within ``RESERVATION_GRACE_S``."""
    ends = [end for line in row.reservations.values() for end in line.values()]
    return max(ends, default=0.0) > time.time() - RESERVATION_GRACE_S


# -- mail that waits for a rate of all mail of its mailer: it is not claimed -----------------------------------------

NOTE_INTERVAL_S = 30.0
"""Seconds between two notes of a process that email waits for a rate."""

WAITING = "-101"
"""Stands for a priority below all, so that no reservation has to come after it."""

_noted: dict[tuple[str, str], float] = {}
_lock = threading.Lock()


def note_wait(mailer: str, window: str, seconds: float, using: str) -> None:
    """Note that email waits for a rate for so many seconds, so that nobody takes it for late (``health``)."""
    now = time.monotonic()
    with _lock:
        if now < _noted.get((mailer, window), float("-inf")) + NOTE_INTERVAL_S:
            return
        _noted[mailer, window] = now
    row, _ = MailerThrottle.objects.using(using).get_or_create(mailer=mailer, domain="")
    until = time.time() + min(seconds, MAX_RESERVATION_S)
    line = row.reservations.get(window, {})
    row.reservations = {**row.reservations, window: {**line, WAITING: until}}
    _save(row, using, "reservations")


def forget() -> None:
    """Forget what this process has read. For tests, and for a forked child."""
    global _lock
    _lock = threading.Lock()
    _known.clear()
    _noted.clear()


os.register_at_fork(after_in_child=forget)
