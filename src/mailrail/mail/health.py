"""What ``channels check``, ``/readyz``, ``mailers --check`` and ``mailq --check`` ask of mail: one rule for each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, router
from django.utils import timezone

from mailrail.health import Problem, register, register_outages
from mailrail.moments import aware, from_now, seconds_between

from .delivery.recipient_states import domain_of
from .mailers.circuit import OUTAGE
from .mailers.config import alias_of
from .mailers.rates import limits_in_use
from .models import Email, MailerState, Status
from .records.overview import MAX_COUNTED, due_at

PAGE_SIZE = 500
"""Emails that are read at once."""


class _Queued(NamedTuple):
    id: UUID
    mailer: str
    via: str
    send_at: datetime | None
    next_try_at: datetime | None
    created_at: datetime

    @property
    def mailers(self) -> set[str]:
        """Return its own mailer, and the one that stands in for it."""
        return {self.mailer, alias_of(self.via) if self.via else self.mailer}

    @property
    def due_at(self) -> datetime:
        return due_at(self.send_at, self.next_try_at, self.created_at)


@register_outages
def mailers_out(limit: float) -> Iterator[Problem]:
    """Yield the mailers that have been out for more than ``limit`` seconds; those a person has paused are left out."""
    states = MailerState.objects.using(_using()).filter(paused_by=OUTAGE)
    more = f", more than {limit:g} s" if limit else ""
    for state in states.filter(since__lt=from_now(-limit)).order_by("since", "pk"):
        text = f"has been out for {seconds_between(state.since, timezone.now()):.0f} s{more}"
        yield _problem("mailer", state.mailer, "a mailer", text, state.since, f": {state.reason}")


@register
def mail_in_time(limit: float) -> Iterator[Problem]:
    """Yield the mailers with an email that has been due for more than ``limit`` seconds, the latest first.

    Only the oldest emails that are queued are looked at. Left out are those whose next attempt has not come, whose
    mailer a person has paused, or that wait for a rate.
    """
    for late in _late(from_now(-limit)):
        text = f"has been due for {seconds_between(late.due_at, timezone.now()):.0f} s, more than {limit:g} s"
        yield _problem("email", late.mailer, "an email", text, late.due_at)


def _problem(kind: str, mailer: str, public: str, text: str, since: datetime, reason: str = "") -> Problem:
    name = mailer or "default"
    who = f"mailer {name!r}" if kind == "mailer" else f"an email of mailer {name!r}"
    return Problem(f"{public} {text}", f"{who} {text}{reason}", aware(since).timestamp(), kind, name)


def _late(before: datetime) -> list[_Queued]:
    """Return the email of each mailer that has been due for longest, if that was before the moment; latest first."""
    using = _using()
    due = [row for row in _made_before(before, using) if seconds_between(row.due_at, before) > 0]
    if not due:
        return []
    paused = set(MailerState.objects.using(using).exclude(paused_by=OUTAGE).values_list("pk", flat=True))
    limits = limits_in_use({mailer for row in due for mailer in row.mailers}, using)
    waiting = _waiting_for_a_rate(due, limits, using)
    late: dict[str, _Queued] = {}
    for row in sorted(due, key=lambda row: row.due_at):
        if row.mailer not in late and not row.mailers & paused and row.id not in waiting:
            late[row.mailer] = row
    return list(late.values())


def _made_before(moment: datetime, using: str) -> Iterator[_Queued]:
    """Yield the emails that are queued since before the moment: no other can have been due before it."""
    queued = Email.objects.using(using).filter(status=Status.QUEUED).order_by("pk")
    last = None
    for _ in range(MAX_COUNTED // PAGE_SIZE):  # ids are in the order of their making, and an index has them
        page = queued if last is None else queued.filter(pk__gt=last)
        rows = [_Queued(*row) for row in page.values_list(*_Queued._fields)[:PAGE_SIZE]]
        for row in rows:
            if seconds_between(row.created_at, moment) <= 0:
                return
            yield row
        if len(rows) < PAGE_SIZE:
            return
        last = rows[-1].id


def _waiting_for_a_rate(due: list[_Queued], limits: set[tuple[str, str]], using: str) -> set[UUID]:
    """Return the ids of the emails that wait for a rate. Recipients are read only where the rate of a domain counts."""
    waiting = {row.id for row in due if any((mailer, "") in limits for mailer in row.mailers)}
    limited = {mailer for mailer, domain in limits if domain}
    asked = {row.id: row.mailers for row in due if row.id not in waiting and row.mailers & limited}
    if not asked:
        return waiting
    of_asked = Email.objects.using(using).filter(pk__in=list(asked)).values_list("pk", "recipients")
    return waiting | {id for id, given in of_asked if _has_domain(given, asked[id], limits)}


def _has_domain(recipients: object, mailers: set[str], limits: set[tuple[str, str]]) -> bool:
    given = recipients if isinstance(recipients, list) else []
    addresses = [recipient.get("address", "") for recipient in given if isinstance(recipient, dict)]
    domains = {domain_of(str(address)) for address in addresses}
    return any((mailer, domain) in limits for mailer in mailers for domain in domains)


def _using() -> str:
    return router.db_for_read(Email) or DEFAULT_DB_ALIAS
