"""Reports on the mail queue for people and monitors. No query reads more than ``MAX_COUNTED`` emails of a status."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import Case, F, Q, QuerySet, When
from django.utils import timezone

from mailrail.moments import seconds_between
from mailrail.tracebacks import first_line

from ..models import FINAL, NOT_FOR_ALL, Email, MailerState, Status, addresses_with
from ..smtp.log_recipients import without_details

MAX_COUNTED = 10_000
"""Beyond these, a number is "this many, and more"."""
OPEN = (Status.QUEUED.value, Status.SENDING.value, Status.HELD.value)


@dataclass(frozen=True)
class Waiting:
    """The emails of one status and mailer, among the oldest of that status that were read; ``more``: there are others.

    ``later``: those of them whose time (``send_at``) has not come. ``deferred``: those whose last attempt failed, and
    whose next one has not come. ``due``: the others. ``oldest``: since when the first of those is due.
    """

    status: str
    mailer: str
    count: int
    later: int
    deferred: int
    due: int
    oldest: datetime | None
    more: bool


@dataclass(frozen=True)
class Deferral:
    """The emails of a mailer that wait for their next attempt for the same reason.

    ``reason``: in the words of the one that is due first; ``summary``: its first line, if an exception says it.
    ``next_try``: when that is.
    """

    mailer: str
    reason: str
    count: int
    next_try: datetime
    summary: str


@dataclass(frozen=True)
class Failure:
    """An email that failed, for some recipients at least, and what was said last; ``summary``: the first line of it, if
    an exception says it. ``recipients``: those for whom it failed; ``sent``: how many others have it."""

    id: str
    mailer: str
    recipients: list[str]
    sent: int
    at: datetime
    why: str
    summary: str


def waiting(
    using: str, status: str | None = None, mailer: str | None = None, most: int | None = None
) -> list[Waiting]:
    """Return the emails that have not ended, by status and mailer. Read the oldest ``most`` of each status."""
    most = MAX_COUNTED if most is None else most
    groups = [group for name in OPEN if status in (None, name) for group in _waiting(name, using, most)]
    return [group for group in groups if mailer in (None, group.mailer)]


def _waiting(status: str, using: str, most: int) -> list[Waiting]:
    """Counted here: a query that groups them again looks each of them up, or reads the whole table for that."""
    emails = Email.objects.using(using).filter(status=status).order_by("pk")
    rows = list(emails.values_list("mailer", "send_at", "next_try_at", "created_at")[: most + 1])
    now = timezone.now()
    by_mailer: dict[str, list[_Times]] = {}
    for mailer, send_at, next_try_at, created_at in rows[:most]:
        by_mailer.setdefault(mailer, []).append(_Times(send_at, next_try_at, created_at))
    return [
        _waiting_of(status, mailer, by_mailer[mailer], now, len(rows) > most) for mailer in sorted(by_mailer)
    ]


class _Times(NamedTuple):
    send_at: datetime | None
    next_try_at: datetime | None
    created_at: datetime

    @property
    def due_at(self) -> datetime:
        return due_at(*self)


def due_at(send_at: datetime | None, next_try_at: datetime | None, created_at: datetime) -> datetime:
    """Return since when, or from when on, an email with these times is to be sent."""
    return max(send_at or created_at, next_try_at or created_at)


def _waiting_of(status: str, mailer: str, times: list[_Times], now: datetime, more: bool) -> Waiting:
    due = [entry.due_at for entry in times if seconds_between(entry.due_at, now) >= 0]
    later = sum(entry.send_at is not None and seconds_between(now, entry.send_at) > 0 for entry in times)
    deferred = len(times) - len(due) - later
    return Waiting(status, mailer, len(times), later, deferred, len(due), min(due, default=None), more)


def deferrals(using: str, mailer: str | None = None) -> list[Deferral]:
    """Return why emails wait for their next attempt: the most frequent reasons first.

    Among the oldest ``MAX_COUNTED`` of those queued. Neither digits nor addresses tell reasons apart.
    """
    groups: dict[tuple[str, str], list[tuple[datetime, str, str]]] = {}
    for name, next_try, events in _deferred(using):
        if mailer in (None, name):
            reason, summary = _last_text(events)
            groups.setdefault((name, without_details(summary)), []).append((next_try, reason, summary))
    by_reason = [_deferral(name, tries) for (name, _), tries in groups.items()]
    return sorted(by_reason, key=lambda deferral: (-deferral.count, deferral.next_try))


def _deferral(mailer: str, tries: list[tuple[datetime, str, str]]) -> Deferral:
    next_try, reason, summary = min(tries)
    return Deferral(mailer, reason, len(tries), next_try, summary)


def _deferred(using: str) -> Iterator[tuple[str, datetime, Any]]:
    """Yield mailer, next attempt and events. What is asked of the others is left out here: a condition would have the
    planner read the whole table, where few are deferred."""
    is_deferred = Q(next_try_at__gt=timezone.now())
    queued = Email.objects.using(using).filter(status=Status.QUEUED).order_by("pk")
    rows = queued.values_list(
        "mailer",
        Case(When(is_deferred, then=F("next_try_at"))),
        Case(When(is_deferred, then=F("events"))),
    )
    return (row for row in rows[:MAX_COUNTED] if row[1] is not None)


def ended(using: str, status: str | None = None) -> dict[str, tuple[int, bool]]:
    """Return status -> the number of emails, up to ``MAX_COUNTED``, and whether there are more."""
    counts = {}
    for name in FINAL:
        if status in (None, name):
            # in the order of the index, which alone is read
            emails = Email.objects.using(using).filter(status=name).order_by("-pk").values("pk")
            count = emails[: MAX_COUNTED + 1].count()
            counts[name] = (min(count, MAX_COUNTED), count > MAX_COUNTED)
    return counts


def states(using: str, mailer: str | None = None) -> list[MailerState]:
    """Return the mailers that are paused, or cannot be used."""
    rows = MailerState.objects.using(using).order_by("pk")
    return list(rows if mailer is None else rows.filter(pk=mailer))


def failures(
    using: str, mailer: str | None = None, limit: int = 10, status: str | None = None
) -> list[Failure]:
    """Return the emails that failed last, for some recipients at least; of one mailer or status, if it is given.

    Those of a mailer are looked for among the last ``MAX_COUNTED`` of each status.
    """
    emails = [
        email
        for name in NOT_FOR_ALL
        if status in (None, name)
        for email in _newest(name, mailer, using).defer("content")[:limit]
    ]
    emails.sort(key=lambda email: email.changed_at, reverse=True)
    return [_failure(email) for email in emails[:limit]]


def _newest(status: str, mailer: str | None, using: str) -> QuerySet[Email]:
    newest = Email.objects.using(using).filter(status=status).order_by("-changed_at")
    if mailer is None:
        return newest
    emails = Email.objects.using(using).filter(pk__in=newest.values("pk")[:MAX_COUNTED], mailer=mailer)
    return emails.order_by("-changed_at")


def _failure(email: Email) -> Failure:
    to = email.failed_recipients or [_of(recipient, "address") for recipient in email.recipients]
    have_it = len(addresses_with(email.recipients, Status.SENT))
    return Failure(str(email.pk), email.mailer, to, have_it, email.changed_at, *_reason_and_summary(email))


def reason_of(email: Email) -> str:
    """Return what was said last about an email that is not sent: the reply of a server, or why it was not tried.

    Of what an exception says, the class and first line.
    """
    return _reason_and_summary(email)[1]


def _reason_and_summary(email: Email) -> tuple[str, str]:
    """Return why it failed. The "250 ok" of recipients who have it is no reason."""
    entries = email.recipients if isinstance(email.recipients, list) else []
    of_recipients = _last_text([entry for entry in entries if _of(entry, "status") != Status.SENT])
    return of_recipients if of_recipients[0] else _last_text(email.events)


def _last_text(entries: Any) -> tuple[str, str]:
    """Return the last reply or reason, and how a list shows it.

    A server wraps its sentences, so a reply, which has a code, is shown with all its lines. What an exception says
    begins with the gist.
    """
    for entry in reversed(entries) if isinstance(entries, list) else ():
        if text := _of(entry, "text") or _of(entry, "why"):
            whole = " ".join(filter(None, [_of(entry, "code"), _of(entry, "enhanced"), text]))
            return whole, whole if _of(entry, "code") else first_line(whole)
    return "", ""


def _of(value: Any, name: str) -> str:
    """Return a text of an entry, or an empty one where other hands have written something else."""
    return str(value.get(name) or "") if isinstance(value, dict) else ""
