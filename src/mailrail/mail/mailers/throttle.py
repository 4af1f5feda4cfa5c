"""How fast mail may leave by a mailer, over all workers: its rates, what its server asks for, and times to come back.

A limit is a rate of all email of a mailer, or of that to one recipient domain. Its tokens are in a bucket on the layer,
which all workers share (``layer.take``). A limit comes from the settings, or from a server that asks for less. Email
over a limit of all email is not claimed until it may leave (``limiter``). Email over the limit of a domain gets a
reservation, and is released until then. So it neither runs in circles nor blocks other email.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias

from django.db.models import F
from django.utils import timezone

from mailrail import Channel
from mailrail.log import logger_of
from mailrail.moments import after, seconds_between
from mailrail.routing import Rate

from ..delivery.record import domain_of, waiting
from ..models import Email, MailerThrottle
from ..smtp.log_recipients import masked
from .channels import channel_of
from .config import policy_of
from .waiting import NOW, RELEASE_DELAY_S, Permission

logger = logger_of("mailrail.mail")

MAX_NAME_LENGTH = 255
"""Characters of a bucket's name."""
ALL = ""
"""In place of a recipient domain: every email of the mailer."""


@dataclass(frozen=True)
class Limit:
    """Name one rate of one mailer for one domain, or ``ALL``."""

    mailer: str
    domain: str
    window: str
    rate: Rate

    @property
    def bucket(self) -> str:
        name = f"mail:{self.mailer}:{self.domain}:{self.window}"
        return name if len(name) <= MAX_NAME_LENGTH else f"mail:{sha256(name.encode()).hexdigest()}"

    def __str__(self) -> str:
        to = f" to {self.domain}" if self.domain else ""
        return f"mailer {self.mailer or 'default'!r} has used up its {self.rate.count} in {self.rate.seconds:g} s{to}"


Take: TypeAlias = Callable[[Limit, int], tuple[int, float]]
"""Take tokens of a limit, as ``take_tokens`` does."""


def take_tokens(limit: Limit, count: int) -> tuple[int, float]:
    """Take tokens, or give them back (``count`` below zero). Return how many, and the seconds until the next."""
    return Channel(channel_of(limit.mailer)).layer.take(limit.bucket, count, limit.rate)


def _rates_of(mailer: str) -> Mapping[str, Sequence[Rate]]:
    """Return the rates of the settings by recipient domain (``ALL``: all email)."""
    policy = policy_of(mailer)
    return {ALL: policy.rate, **policy.rates}


def _limits(
    mailer: str, rates: Mapping[str, Sequence[Rate]], paces: Mapping[str, float]
) -> dict[str, list[Limit]]:
    """Return limits by domain: of these rates, and of the emails a second that servers have asked for."""
    limits = {
        domain: [Limit(mailer, domain, f"{rate.seconds:g}", rate) for rate in of_domain]
        for domain, of_domain in rates.items()
        if of_domain
    }
    for domain, pace in paces.items():
        count = max(1, int(pace))
        limits.setdefault(domain, []).append(Limit(mailer, domain, "slow", Rate(count, count / pace)))
    return limits


def limits_of_all(mailer: str, using: str) -> Sequence[Limit]:
    """Return the limits of all email of a mailer. Read nothing while the last read found no complaint."""
    pace = slowed(mailer, using, rereads_none=False).get(ALL)
    return _limits(mailer, {ALL: policy_of(mailer).rate}, {ALL: pace} if pace else {}).get(ALL, ())


def limits_in_use(
    mailers: Iterable[str], using: str, throttles: Iterable[MailerThrottle] | None = None
) -> set[tuple[str, str]]:
    """Return the mailers and recipient domains (``ALL``: all) whose rates email waits for.

    ``mailers``: those that have email. ``throttles``: the rows with reservations, if they have been read. A reservation
    counts for ``RESERVATION_GRACE_S`` longer, in which emails still ask for the next ones.
    """
    if throttles is None:
        throttles = MailerThrottle.objects.using(using).exclude(reservations={})
    since = time.time() - RESERVATION_GRACE_S
    in_use = {
        (row.mailer, row.domain)
        for row in throttles
        if any(end > since for line in row.reservations.values() for end in line.values())
    }
    return in_use | {
        (mailer, domain)
        for mailer in mailers
        for domain, rates in _rates_of(mailer).items()
        # Reservations that are farther away are not stored.
        if any(rate.seconds / rate.count > MAX_RESERVATION_S for rate in rates)
    }


# -- who may leave now -------------------------------------------------------------------------------------------------


def _take_all(limits: Iterable[Limit], count: int, take: Take) -> tuple[int, float, Limit | None]:
    """Take as many tokens of each limit as all of them allow. Return how many, the wait for the next, and whose."""
    taken, wait, binding = list[tuple[Limit, int]](), 0.0, None
    for limit in limits:
        if count <= 0:
            break
        granted, retry_after = take(limit, count)
        taken.append((limit, granted))
        if granted < count:
            count, wait, binding = max(0, granted), retry_after, limit
    for limit, granted in taken:
        if granted > count:
            take(limit, count - granted)
    return count, wait, binding


def permit(limits: Sequence[Limit], wanted: int, using: str) -> Permission:
    """Take tokens before a claim, of limits of all email. If there are none, note that email waits."""
    count, wait, binding = _take_all(limits, wanted, take_tokens)
    if binding is not None and not count:
        note_wait(binding.mailer, binding.window, wait, using)
    return Permission(count, wait, str(binding or ""))


@dataclass
class Admission:
    """``ready``: may leave now. ``later``: those that may not, each with the seconds to wait, and why.

    ``limits``: those whose tokens the ready ones have, by domain. An email to more recipients than its server takes at
    once has tokens for one transaction, and asks for more.
    """

    ready: list[Email]
    later: list[tuple[Email, Permission]] = field(default_factory=list)
    limits: dict[str, list[Limit]] = field(default_factory=dict)
    take: Take = take_tokens

    def give_back(self, emails: Iterable[Email]) -> None:
        """Give the tokens back of emails that were not even tried.

        A transaction takes one for each of its domains, however many recipients are there.
        """
        if self.limits:
            domains = (domain for email in emails for domain in self.domains(waiting(email)))
            needs = Counter(limit for domain in domains for limit in self.limits[domain])
            for limit, count in needs.items():
                self.take(limit, -count)

    def domains(self, addresses: Iterable[str]) -> set[str]:
        """Return those with a limit, ``ALL`` among them."""
        return {ALL, *map(domain_of, addresses)} & self.limits.keys() if self.limits else set()

    def take_another(self, email: Email, domains: Iterable[str], using: str) -> Permission:
        """Take the tokens of one more transaction to these domains, if all of them have one."""
        limits = [limit for domain in domains for limit in self.limits[domain]]
        _, wait, binding = _take_all(limits, 1, self.take)
        return NOW if binding is None else _reservations(binding, [email], wait, using)[0]


def admit(mailer: str, emails: Sequence[Email], using: str, take: Take = take_tokens) -> Admission:
    """Take tokens for these emails, by ``take``. Raise ``LayerUnavailable``, or what the layer's database raises."""
    admission, policy, paces = Admission(list(emails), take=take), policy_of(mailer), slowed(mailer, using)
    if not (policy.rate or policy.rates or paces):
        return admission
    limits = _limits(mailer, _rates_of(mailer), paces)
    for domain in sorted(limits, reverse=True):  # ALL last: it is asked for those that the others let through
        concerned = admission.ready
        if domain != ALL:
            concerned = [email for email in concerned if domain in map(domain_of, waiting(email))]
        allowed, wait, binding = _take_all(limits[domain], len(concerned), take)
        if binding is not None:
            over = concerned[allowed:]
            admission.give_back(over)  # what the domains before have granted
            gone = {email.pk for email in over}
            admission.ready = [email for email in admission.ready if email.pk not in gone]
            admission.later += zip(over, _come_back(binding, over, wait, using), strict=True)
        admission.limits[domain] = limits[domain]
    return admission


def _come_back(limit: Limit, emails: Sequence[Email], first: float, using: str) -> Sequence[Permission]:
    """Return when each of these may be asked for again.

    Email over a rate of all email is due soon, as the limiter of its channel lets nobody claim it before it may leave.
    """
    if limit.domain != ALL:
        return _reservations(limit, emails, first, using)
    note_wait(limit.mailer, limit.window, first, using)
    return [Permission(0, RELEASE_DELAY_S, str(limit))] * len(emails)


# -- slowing down ------------------------------------------------------------------------------------------------------
#
# A server that asks for less (``replies.Verdict.slow_down``) gets half, at most once every ten seconds. Each quiet
# minute adds a tenth, until the full rate is back: additive increase, multiplicative decrease. The full rate is the one
# at which mail was leaving when the server first complained.

MIN_S_BETWEEN_HALVINGS = 10.0
"""Within so many seconds, further complaints are about mail that was under way at the first one."""
RECOVERS_EVERY, RECOVERS_BY = 60.0, 0.1
MIN_SHARE = 1 / 128
MIN_PACE_PER_S = 1 / 60
"""Emails a second: never less, so that recovery is noticed."""
CACHE_S = 1.0
"""Seconds for which a process trusts what it has read, so that not every batch costs a query."""

_known: dict[tuple[str, str], tuple[float, Mapping[str, float]]] = {}


def slowed(mailer: str, using: str, *, rereads_none: bool = True) -> Mapping[str, float]:
    """Return the emails a second for each recipient domain (``ALL``) where the server has asked for less.

    ``rereads_none=False``: read nothing while the last read found none, as each batch reads anew.
    """
    if (known := _known.get((mailer, using))) is not None:
        read_at, paces = known
        if time.monotonic() - read_at < CACHE_S or not (paces or rereads_none):
            return paces
    rows = MailerThrottle.objects.using(using).filter(mailer=mailer, share__lt=1)
    paces = {row.domain: pace_of(row) for row in rows if not _recovers(row, using)}
    _known[mailer, using] = time.monotonic(), paces
    return paces


def note_none(mailer: str, using: str) -> None:
    """Take in that no mailer is slowed down, as somebody has just read."""
    _known[mailer, using] = time.monotonic(), {}


def pace_of(row: MailerThrottle) -> float:
    """Return the emails a second of a mailer and domain that were slowed down."""
    return max(MIN_PACE_PER_S, row.pace * row.share)


def pace_now(row: MailerThrottle) -> float | None:
    """Return the emails a second that a batch would find now; ``None``: as fast as before. Writes nothing."""
    _, share = _recovered(row)
    return None if share == 1 else max(MIN_PACE_PER_S, row.pace * share)


def _recovered(row: MailerThrottle) -> tuple[int, float]:
    """Return the quiet minutes since the last change, and the share after them."""
    periods = max(0, int(seconds_between(row.changed_at, timezone.now()) / RECOVERS_EVERY))
    share = row.share + RECOVERS_BY * periods
    return periods, 1.0 if share > 0.999 else share


def slow_down(mailer: str, domain: str, pace: float, reason: str, using: str) -> None:
    """Note that the server asks for less to this domain (``ALL``). ``pace``: emails a second that were leaving.

    The shortest rate of the settings bounds the pace.
    """
    if rates := _rates_of(mailer).get(domain):
        pace = min(pace, rates[0].count / rates[0].seconds)
    row, _ = MailerThrottle.objects.using(using).get_or_create(mailer=mailer, domain=domain)
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
    periods, share = _recovered(row)
    if not periods:
        return False
    row.share, row.changed_at = share, after(row.changed_at, RECOVERS_EVERY * periods)
    if share == 1:
        row.since = None
    if _save(row, using, "share", "since", "changed_at") and share == 1:
        logger.warning("Mailer %r is as fast as before%s.", row.mailer or "default", to(row.domain))
        done = MailerThrottle.objects.using(using).filter(pk=row.pk, version=row.version + 1, reservations={})
        done.delete()
    return share == 1


def to(domain: str) -> str:
    """Return a clause for log messages."""
    return f" for mail to {domain}" if domain else ""


def _save(row: MailerThrottle, using: str, *names: str) -> bool:
    """Save these columns and return True, unless another process has changed the row since it was read."""
    values = {name: getattr(row, name) for name in names}
    mine = MailerThrottle.objects.using(using).filter(pk=row.pk, version=row.version)
    return bool(mine.update(**values, version=F("version") + 1))


# -- reservations ------------------------------------------------------------------------------------------------------

MAX_RESERVATION_S = 900.0
"""Seconds ahead for which times are reserved. Emails beyond come again then, in the same order."""
RESERVATION_GRACE_S = 60.0
GRID_S = 0.2
"""Seconds: reservations closer together than that are moved to the same moment, as one batch."""
MAX_TRIES = 20
"""How often a row is read anew that others keep changing, before it is left as it is."""
NOTE_INTERVAL_S = 30.0
"""Seconds between two notes of a process that email waits for a rate."""
WAITING = "-101"
"""Stands for a priority below all, so that no reservation has to come after it."""

_noted: dict[tuple[str, str], float] = {}
_lock = threading.Lock()


def _reservations(limit: Limit, emails: Sequence[Email], first: float, using: str) -> list[Permission]:
    waits, reason = reserve(limit, [email.priority for email in emails], first, using), str(limit)
    return [Permission(0, wait, reason) for wait in waits]


def reserve(limit: Limit, priorities: Sequence[int], first: float, using: str) -> list[float]:
    """Return the seconds until the reservation of each email over a limit. ``first``: until a token is free.

    Earlier ones come first, but for lower priorities.
    """
    spacing = limit.rate.seconds / limit.rate.count
    rows = MailerThrottle.objects.using(using)
    for _ in range(MAX_TRIES):
        row, _created = rows.get_or_create(mailer=limit.mailer, domain=limit.domain)
        now = time.time()
        future = {
            window: {priority: end for priority, end in line.items() if end > now}
            for window, line in row.reservations.items()
        }
        row.reservations = {window: line for window, line in future.items() if line}
        line = row.reservations.setdefault(limit.window, {})
        waits = [_reserve_one(line, priority, now, first, spacing) for priority in priorities]
        if _save(row, using, "reservations"):
            return waits
    return [first + spacing * n for n in range(len(priorities))]


def _reserve_one(line: dict[str, float], priority: int, now: float, first: float, spacing: float) -> float:
    """Return when an email is due again: a little behind its token, or with its neighbours, which form a batch."""
    before = [end for other, end in line.items() if int(other) >= priority]
    reserved_at = max([now + first, *(end + spacing for end in before)])
    if reserved_at <= now + MAX_RESERVATION_S:
        line[str(priority)] = reserved_at
    due_at = reserved_at + 0.01 if spacing > GRID_S else math.ceil(reserved_at / GRID_S) * GRID_S
    return min(due_at - now, MAX_RESERVATION_S)


def cancel_reservations(mailer: str, using: str) -> None:
    """Drop all reservations: the mailer stops or starts, so that its mail waits for something else."""
    rows = MailerThrottle.objects.using(using).filter(mailer=mailer)
    rows.exclude(reservations={}).update(reservations={}, version=F("version") + 1)


def note_wait(mailer: str, window: str, seconds: float, using: str) -> None:
    """Note that email waits for a rate of all email, unclaimed, so that nobody takes it for late (``health``)."""
    now = time.monotonic()
    with _lock:
        if now < _noted.get((mailer, window), -math.inf) + NOTE_INTERVAL_S:
            return
        _noted[mailer, window] = now
    row, _ = MailerThrottle.objects.using(using).get_or_create(mailer=mailer, domain=ALL)
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
