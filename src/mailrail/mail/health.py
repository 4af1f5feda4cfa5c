"""What ``channels check``, ``/readyz``, ``mailers --check`` and ``mailq --check`` ask of mail: one rule for each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from django.db import DEFAULT_DB_ALIAS, connections, router
from django.db.models.functions import Coalesce, Greatest
from django.utils import timezone

from mailrail.health import Problem, register, register_outages
from mailrail.moments import aware, from_now, seconds_between

from .delivery.record import domain_of
from .mailers.circuit import OUTAGE
from .mailers.config import alias_of
from .mailers.throttle import limits_in_use
from .models import Email, MailerState, Status
from .records.overview import MAX_COUNTED

DUE = Greatest(Coalesce("send_at", "created_at"), Coalesce("next_try_at", "created_at"))
"""Since when an email is due, as ``records.overview.due_at`` says."""


class _Late(NamedTuple):
    """Since when emails of a mailer are due, all or those for which the same other one stands in."""

    mailer: str
    via: str
    due_at: datetime

    @property
    def mailers(self) -> set[str]:
        """Return its own mailer, and the one that stands in for it."""
        return {self.mailer, alias_of(self.via) if self.via else self.mailer}


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


def _late(before: datetime) -> list[_Late]:
    """Return since when the mail of each mailer has been due, if that was before the moment; earliest first.

    The database groups it: reading ten thousand rows takes a quarter of a second.
    """
    using = _using()
    first = _oldest(using).values_list("created_at", flat=True)[:1]
    if not any(seconds_between(made, before) > 0 for made in first):  # so no other was due before
        return []
    groups = [group for group in _groups(using) if seconds_between(group.due_at, before) > 0]
    if not groups:
        return []
    paused = set(MailerState.objects.using(using).exclude(paused_by=OUTAGE).values_list("pk", flat=True))
    limits = limits_in_use({mailer for group in groups for mailer in group.mailers}, using)
    unpaused = (group for group in groups if not group.mailers & paused)
    found = [late for group in unpaused if (late := _beside_rates(group, limits, before, using))]
    by_mailer: dict[str, _Late] = {}
    for late in sorted(found, key=lambda late: late.due_at):
        by_mailer.setdefault(late.mailer, late)
    return list(by_mailer.values())


def _groups(using: str) -> list[_Late]:
    """Return since when mail is due, by mailer. The ORM groups no slice, and looking its ids up again takes longest."""
    connection = connections[using]
    rows_of = _oldest(using).values_list("mailer", "via", "due")
    oldest, values = rows_of.query.get_compiler(using).as_sql()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT mailer, via, MIN(due) FROM ({oldest}) AS oldest GROUP BY mailer, via", values)
        rows = cursor.fetchall()
    column = Email._meta.get_field("created_at").cached_col
    converters = [*connection.ops.get_db_converters(column), *column.get_db_converters(connection)]
    for convert in converters:
        rows = [(mailer, via, convert(due, column, connection)) for mailer, via, due in rows]
    return [_Late(*row) for row in rows]


def _oldest(using: str) -> Any:
    """Return the oldest emails that are queued: ids are in the order of their making, and an index has them."""
    queued = Email.objects.using(using).filter(status=Status.QUEUED).order_by("pk")
    return queued.annotate(due=DUE)[:MAX_COUNTED]


def _beside_rates(group: _Late, limits: set[tuple[str, str]], before: datetime, using: str) -> _Late | None:
    """Return since when those emails of a group are due that wait for no rate, if that was before the moment.

    Recipients are read only where the rate of a domain counts.
    """
    domains = {domain for mailer, domain in limits if mailer in group.mailers}
    if not domains:
        return group
    if "" in domains:  # the rate of all its mail
        return None
    rows = _oldest(using).values_list("mailer", "via", "due", "recipients").iterator()
    free = [
        due
        for mailer, via, due, recipients in rows
        if (mailer, via) == (group.mailer, group.via)
        and seconds_between(due, before) > 0
        and not _has_domain(recipients, domains)
    ]
    return group._replace(due_at=min(free)) if free else None


def _has_domain(recipients: object, domains: set[str]) -> bool:
    given = recipients if isinstance(recipients, list) else []
    addresses = [recipient.get("address", "") for recipient in given if isinstance(recipient, dict)]
    return any(domain_of(str(address)) in domains for address in addresses)


def _using() -> str:
    return router.db_for_read(Email) or DEFAULT_DB_ALIAS
