"""How the mail queue stands, for people and monitors. Nothing here reads more than ``COUNTED`` emails of a status."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone

from .models import FINAL, Email, MailerState, Status

COUNTED = 10_000
"""Beyond these, a number is "this many, and more"."""
OPEN = (Status.QUEUED.value, Status.SENDING.value, Status.HELD.value)


@dataclass(frozen=True)
class Waiting:
    """The emails of one status and mailer, among the oldest ``COUNTED`` of that status; ``more``: there are others.

    ``later``: those of them whose time has not come. ``oldest``: since when the first of the rest is due.
    """

    status: str
    mailer: str
    count: int
    later: int
    oldest: datetime | None
    more: bool


@dataclass(frozen=True)
class Failure:
    """An email that failed, and what was said last."""

    id: str
    mailer: str
    recipients: list[str]
    at: datetime
    why: str


def waiting(using: str, status: str | None = None, mailer: str | None = None) -> list[Waiting]:
    """What has not ended, by status and mailer."""
    found = [each for name in OPEN if status in (None, name) for each in _waiting(name, using)]
    return [each for each in found if mailer in (None, each.mailer)]


def _waiting(status: str, using: str) -> list[Waiting]:
    """Counted here: a query that groups them again looks each of them up, or reads the whole table for that."""
    its = Email.objects.using(using).filter(status=status).order_by("pk")
    rows = list(its.values_list("mailer", "send_at", "created_at")[: COUNTED + 1])
    now = timezone.now()
    by_mailer: dict[str, list[tuple[datetime | None, datetime]]] = {}
    for mailer, send_at, created_at in rows[:COUNTED]:
        by_mailer.setdefault(mailer, []).append((send_at, created_at))
    return [
        _standing(status, mailer, by_mailer[mailer], now, len(rows) > COUNTED) for mailer in sorted(by_mailer)
    ]


def _standing(
    status: str, mailer: str, times: list[tuple[datetime | None, datetime]], now: datetime, more: bool
) -> Waiting:
    due = [send_at or created_at for send_at, created_at in times if send_at is None or send_at <= now]
    return Waiting(status, mailer, len(times), len(times) - len(due), min(due, default=None), more)


def ended(using: str, status: str | None = None) -> dict[str, tuple[int, bool]]:
    """Status -> how many, up to ``COUNTED``, and whether there are more."""
    counts = {}
    for name in FINAL:
        if status in (None, name):
            # in the order of the index, which alone is read
            its = Email.objects.using(using).filter(status=name).order_by("-pk").values("pk")
            count = its[: COUNTED + 1].count()
            counts[name] = (min(count, COUNTED), count > COUNTED)
    return counts


def states(using: str, mailer: str | None = None) -> list[MailerState]:
    """The mailers that are paused, or cannot be used."""
    found = MailerState.objects.using(using).order_by("pk")
    return list(found if mailer is None else found.filter(pk=mailer))


def failures(using: str, mailer: str | None = None, limit: int = 10) -> list[Failure]:
    """The newest emails that failed; of one mailer: among the newest ``COUNTED``."""
    newest = Email.objects.using(using).filter(status=Status.FAILED).order_by("-pk")
    if mailer is not None:
        newest = Email.objects.using(using).filter(pk__in=newest.values("pk")[:COUNTED], mailer=mailer)
    return [
        Failure(
            id=str(email.pk),
            mailer=email.mailer,
            recipients=[_of(each, "address") for each in email.recipients],
            at=email.changed_at,
            why=_why(email),
        )
        for email in newest.order_by("-pk").defer("content")[:limit]
    ]


def _why(email: Email) -> str:
    for each in (*reversed(email.recipients), *reversed(email.events)):
        if said := _of(each, "text") or _of(each, "why"):
            return " ".join(filter(None, [_of(each, "code"), _of(each, "enhanced"), said]))
    return ""


def _of(value: Any, name: str) -> str:
    """Other hands may have written the record."""
    return str(value.get(name) or "") if isinstance(value, dict) else ""
