"""Count what became of emails in the history of their mailers, and group what went wrong by mailer and reply."""

from __future__ import annotations

from collections.abc import Sequence

from mailrail.moments import aware
from mailrail.monitoring.counters import note_mailer, note_trouble
from mailrail.terminal import single_line

from ..mailers.config import alias_of, shown_alias
from ..models import Email, Status
from ..records.overview import reason_of
from ..smtp.log_recipients import without_details
from .outcomes import Result

WELL = frozenset({Status.SENT, Status.SUPPRESSED})
"""Nothing went wrong with these."""
FAILED = frozenset({Status.FAILED, Status.EXPIRED})


def note(results: Sequence[Result]) -> None:
    """Count outcomes that are committed, a mailer at a time.

    Of an email that is sent, the history keeps how long that took since it was due.
    """
    by_mailer: dict[str, list[Result]] = {}
    for result in results:
        by_mailer.setdefault(result.email.via or result.email.mailer, []).append(result)
    for mailer, of_mailer in by_mailer.items():
        _note(shown_alias(alias_of(mailer)), of_mailer)


def _note(mailer: str, results: Sequence[Result]) -> None:
    arrived, seconds, wrong = list[float](), list[float](), list[Result]()
    for result in results:
        email, status = result.email, result.status
        queued_at = aware(email.created_at).timestamp()
        if _is_first(email):
            arrived.append(queued_at)
        if email.sent_at is not None and (status is Status.SENT or status is Status.PARTIAL):
            due = queued_at if email.send_at is None else max(queued_at, aware(email.send_at).timestamp())
            seconds.append(aware(email.sent_at).timestamp() - due)
        if status not in WELL:
            wrong.append(result)
    failed = sum(result.status in FAILED for result in wrong)
    deferred = sum(result.status is Status.QUEUED for result in wrong)
    note_mailer(mailer, sent=len(seconds), failed=failed, deferred=deferred, seconds=seconds, arrived=arrived)
    for result in wrong:
        if what := trouble_of(result.email):
            note_trouble("mailer", mailer, what, buried=int(result.status is not Status.QUEUED))


def _is_first(email: Email) -> bool:
    """Tell whether nothing else became of it before: then it is new to the history."""
    return isinstance(email.events, list) and len(email.events) == 1


def trouble_of(email: Email) -> str:
    """Return what groups emails that went wrong in the same way: the reply or the reason, without recipients."""
    recipients = email.recipients if isinstance(email.recipients, list) else []
    addresses = [str(each.get("address", "")) for each in recipients if isinstance(each, dict)]
    return without_details(single_line(reason_of(email)), addresses)
