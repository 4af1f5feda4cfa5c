"""How fast mail leaves, as all workers know it: slowing down when a server asks for it, and whose turn is when.

A server that asks for less (``replies.Verdict.slow_down``) gets half, at most once every ten seconds. Each quiet minute
adds a tenth, until the full rate is back: additive increase, multiplicative decrease. Half of what: of the pace at
which mail was leaving just then.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from django.db.models import F
from django.utils import timezone

from mailrail.log import logger_of
from mailrail.moments import after, seconds_between

from .log_recipients import masked
from .models import MailerPace

logger = logger_of("mailrail.mail")

HALVED_AT_MOST_EVERY = 10.0
"""Seconds: what is under way when a server first complains is complained of as well."""
RECOVERS_EVERY, RECOVERS_BY = 60.0, 0.1
LEAST_SHARE = 1 / 128
SLOWEST = 1 / 60
"""Emails a second: never less, so that recovery is noticed."""
KNOWN_FOR = 1.0
"""Seconds for which a process believes what it has read: no batch costs a look of its own."""
FARTHEST = 900.0
"""Seconds ahead for which turns are given away. Emails beyond come again then, in the same order."""
TOGETHER = 0.2
"""Seconds: turns that are nearer to each other than that are taken at the same time."""
TRIES = 20
"""A row that others change all the time is read anew so often, then left as it is."""


class Turns(NamedTuple):
    """Whose turns are to be given away: emails over a rate, by their priorities, in order.

    ``window``: what the rate is told by from the mailer's others; ``first``: seconds until the first turn; ``spacing``:
    seconds between two.
    """

    window: str
    priorities: Sequence[int]
    first: float
    spacing: float


# -- slowing down -----------------------------------------------------------------------------------------------------

_known: dict[tuple[str, str], tuple[float, Mapping[str, float]]] = {}


def slowed(mailer: str, using: str) -> Mapping[str, float]:
    """Recipient domain ("": all mail) -> emails a second, where the server has asked for less."""
    read_at, found = _known.get((mailer, using), (float("-inf"), {}))
    if time.monotonic() - read_at < KNOWN_FOR:
        return found
    rows = MailerPace.objects.using(using).filter(mailer=mailer, share__lt=1)
    found = {row.domain: pace_of(row) for row in rows if not _recovers(row, using)}
    _known[mailer, using] = time.monotonic(), found
    return found


def pace_of(row: MailerPace) -> float:
    return max(SLOWEST, row.pace * row.share)


def slow_down(mailer: str, domain: str, pace: float, reason: str, using: str) -> None:
    """The server asks for less mail to this domain ("": in all). ``pace``: emails a second that were leaving."""
    rows = MailerPace.objects.using(using)
    row, _ = rows.get_or_create(mailer=mailer, domain=domain)
    now = timezone.now()
    if row.share < 1 and seconds_between(row.changed_at, now) < HALVED_AT_MOST_EVERY:
        return
    begins = row.share >= 1
    row.share = 0.5 if begins else max(LEAST_SHARE, row.share / 2)
    row.pace = max(SLOWEST, pace) if begins else row.pace
    row.since = now if begins else row.since
    row.reason, row.changed_at = reason[:500], now
    if _save(row, using, "share", "pace", "since", "reason", "changed_at"):
        _known.pop((mailer, using), None)
        if begins:
            told = "Mailer %r is asked for less%s, and slows down to %.3g emails a second: %s"
            logger.warning(told, mailer or "default", to(domain), pace_of(row), masked(reason))


def _recovers(row: MailerPace, using: str) -> bool:
    """After some quiet, a little. Whole again?"""
    periods = int(seconds_between(row.changed_at, timezone.now()) / RECOVERS_EVERY)
    if periods < 1:
        return False
    row.share = min(1.0, row.share + RECOVERS_BY * periods)
    row.changed_at = after(row.changed_at, RECOVERS_EVERY * periods)
    if row.share > 0.999:
        row.share, row.since = 1.0, None
    if _save(row, using, "share", "since", "changed_at") and row.share == 1:
        logger.warning("Mailer %r is as fast as before%s.", row.mailer or "default", to(row.domain))
        MailerPace.objects.using(using).filter(pk=row.pk, turn=row.turn + 1, lines={}).delete()
    return row.share == 1


def to(domain: str) -> str:
    """For messages."""
    return f" for mail to {domain}" if domain else ""


def _save(row: MailerPace, using: str, *names: str) -> bool:
    """Unless somebody else has changed it since it was read."""
    values = {name: getattr(row, name) for name in names}
    mine = MailerPace.objects.using(using).filter(pk=row.pk, turn=row.turn)
    return bool(mine.update(**values, turn=F("turn") + 1))


# -- whose turn is when -----------------------------------------------------------------------------------------------


def give_turns(mailer: str, domain: str, turns: Turns, using: str) -> list[float]:
    """Seconds until the turn of each. What was given away before comes first, but for lower priorities."""
    for _ in range(TRIES):
        row, _created = MailerPace.objects.using(using).get_or_create(mailer=mailer, domain=domain)
        now = time.time()
        lines = _future(row.lines, now)
        waits = _give(lines.setdefault(turns.window, {}), turns, now)
        row.lines = lines
        if _save(row, using, "lines"):
            return waits
    return [turns.first + turns.spacing * n for n in range(len(turns.priorities))]


def _future(lines: Mapping[str, Mapping[str, float]], now: float) -> dict[str, dict[str, float]]:
    return {
        window: {priority: end for priority, end in line.items() if end > now}
        for window, line in lines.items()
        if any(end > now for end in line.values())
    }


def _give(line: dict[str, float], turns: Turns, now: float) -> list[float]:
    waits = []
    for priority in turns.priorities:
        before = [end for other, end in line.items() if int(other) >= priority]
        turn = max([now + turns.first, *(end + turns.spacing for end in before)])
        if turn <= now + FARTHEST:
            line[str(priority)] = turn
        waits.append(min(_together(turn, turns.spacing) - now, FARTHEST))
    return waits


def _together(turn: float, spacing: float) -> float:
    """A little later than the token, and with the others of that fifth of a second: one batch for all of them."""
    return turn + 0.01 if spacing > TOGETHER else math.ceil(turn / TOGETHER) * TOGETHER


def forget_turns(mailer: str, using: str) -> None:
    """The mailer stops or starts: those who waited for a turn wait for something else, or come anew."""
    rows = MailerPace.objects.using(using).filter(mailer=mailer)
    rows.exclude(lines={}).update(lines={}, turn=F("turn") + 1)


# -- mail that waits for a mailer, not for a moment -------------------------------------------------------------------

VISITS = 200.0
"""Emails a second that this process checks again in vain while their mailer is paused or all its connections are used.
A short queue is checked every second, and a long one causes no load."""
SOONEST, LATEST = 0.5, 60.0
"""Seconds until the first of them, and until the last."""

_visits: dict[str, float] = {}
_lock = threading.Lock()


def visits(mailer: str, count: int, soonest: float = SOONEST) -> Iterable[float]:
    """Seconds until each of so many emails may be looked at again."""
    with _lock:
        now = time.monotonic()
        begin = max(now + soonest, _visits.get(mailer, 0.0))
        if begin > now + LATEST:
            begin = now + LATEST
        _visits[mailer] = begin + count / VISITS
    return [begin - now + n / VISITS for n in range(count)]


def forget() -> None:
    """What this process believes; for tests, and for a forked child."""
    global _lock
    _lock = threading.Lock()
    _known.clear()
    _visits.clear()


os.register_at_fork(after_in_child=forget)
