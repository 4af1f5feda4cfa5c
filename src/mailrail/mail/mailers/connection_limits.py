"""Limits on the open connections of a mailer, over all workers of all machines.

Each connection that may be open is a row. Its holder renews the row every few seconds, from a thread of its own. A
process that dies stops renewing, and its rows are free 20 seconds later; the database's clock decides. A process that
stood still for longer keeps its connections until its batch is over. For that time they exist beside those of the
process that took its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from django.db.models import Count, Q
from django.db.models.functions import Now

from ..models import MailerConnection
from .config import policy_of
from .keeping import Keeper
from .waiting import Permission, reopen

LEASE_DURATION = timedelta(seconds=20)
RENEW_INTERVAL_S = 5.0
NONE_FREE = Permission(0, 0.3, "all connections of its mailer are in use")
"""This process claims nothing for a mailer for so long after another batch was found to have all its connections."""
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)  # which a MomentField takes with USE_TZ = False, too


@dataclass
class Reservation:
    """Hold so many connections of a mailer (``count``) until ``give_back``. Close them before."""

    mailer: str
    count: int
    holder: str
    using: str

    def give_back(self, *, is_used: bool = True) -> None:
        """Give all back. Where they were used, email of this process may wait for them."""
        _keeper.remove(self.holder)
        MailerConnection.objects.using(self.using).filter(holder=self.holder).update(holder="", until=Now())
        if is_used:
            reopen(self.mailer)

    def keep(self, most: int) -> None:
        """Give back what is over ``most``."""
        if self.count > most:
            mine = MailerConnection.objects.using(self.using).filter(holder=self.holder)
            over = mine.order_by("number").values("pk")[most:]
            mine.filter(pk__in=list(over.values_list("pk", flat=True))).update(holder="", until=Now())
            self.count = most


def reserve(mailer: str, most: int, using: str) -> Reservation | None:
    """Reserve connections of a mailer that has a limit, at most ``most``. Return ``None`` if all are in use."""
    connections_allowed = policy_of(mailer).connections
    if connections_allowed is None:
        raise ValueError(f"Mailer {mailer or 'default'!r} has no limit of connections.")
    holder = uuid4().hex
    taken = _take(mailer, connections_allowed, most, holder, using)
    if not taken:
        return None
    _keeper.add(holder, using)
    return Reservation(mailer, taken, holder, using)


def has_free(mailer: str, using: str) -> bool:
    """Tell whether a connection of the mailer is free, and let claims go on if so."""
    allowed = policy_of(mailer).connections
    rows = MailerConnection.objects.using(using).filter(mailer=mailer, until__gt=Now())
    if allowed is not None and rows.filter(number__lte=allowed).count() >= allowed:
        return False
    reopen(mailer)
    return True


@contextmanager
def reserved_connections(
    mailer: str, most: int, using: str, ready: Reservation | None = None
) -> Iterator[Permission]:
    """Yield how many connections may be open in the block, at most ``most``.

    ``ready``: connections that were reserved before. Close them before the block ends.
    """
    if policy_of(mailer).connections is None:
        yield Permission(most)
        return
    reservation = ready or reserve(mailer, most, using)
    if reservation is None:
        yield NONE_FREE
        return
    try:
        reservation.keep(most)
        yield Permission(reservation.count)
    finally:
        reservation.give_back()


def _take(mailer: str, allowed: int, most: int, holder: str, using: str) -> int:
    rows = MailerConnection.objects.using(using)
    numbered = rows.filter(mailer=mailer, number__lte=allowed)
    known, in_use = numbered.aggregate(
        known=Count("pk"), in_use=Count("pk", filter=Q(until__gt=Now()))
    ).values()
    if known < allowed:
        numbers = range(1, allowed + 1)
        new = [MailerConnection(mailer=mailer, number=number, until=LONG_AGO) for number in numbers]
        rows.bulk_create(new, ignore_conflicts=True)
    if in_use >= allowed:
        return 0
    free = numbered.filter(until__lte=Now())
    # Of two that see the same row free, the second one looks again once the first has committed, and leaves it.
    wanted = free.order_by("number").values("pk")[:most]
    free.filter(pk__in=wanted).update(holder=holder, until=Now() + LEASE_DURATION)
    return rows.filter(holder=holder).count()


def _renew(held: dict[str, str]) -> None:
    for using in set(held.values()):
        mine = [holder for holder, alias in held.items() if alias == using]
        MailerConnection.objects.using(using).filter(holder__in=mine).update(until=Now() + LEASE_DURATION)


_keeper = Keeper("the connections of mailers", RENEW_INTERVAL_S, _renew)
