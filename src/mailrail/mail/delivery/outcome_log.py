"""Tell what became of emails: to the log, and to the history of their mailers.

The log has one line for each outcome, and nothing for email that waits for its mailer, a rate or its time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mailrail.log import logger_of
from mailrail.moments import aware
from mailrail.monitoring.counters import note_mailer, note_trouble
from mailrail.terminal import single_line
from mailrail.tracebacks import first_line

from ..mailers.config import alias_of, shown_alias
from ..models import Email, Status
from ..records.overview import reason_of
from ..smtp.log_recipients import masked, named, without_details
from .outcomes import Result
from .record import AMBIGUOUS, HELD_AMBIGUOUS

logger = logger_of("mailrail.mail")

MAX_TEXT_LENGTH = 300
"""Characters of what a server said."""


WELL = frozenset({Status.SENT, Status.SUPPRESSED})
"""Nothing went wrong with these."""
FAILED = frozenset({Status.FAILED, Status.EXPIRED})


# -- the log ----------------------------------------------------------------------------------------------------------


def log(results: Sequence[Result]) -> None:
    """Log what became of these emails, which is committed: failures as warnings, all else as information."""
    if not results or not logger.isEnabledFor(logging.WARNING):
        return
    all_of_them = logger.isEnabledFor(logging.INFO)
    for result in results:
        event = (
            result.email.events[-1] if result.email.events else {}
        )  # none if all recipients are suppressed
        is_well = result.status in WELL
        if result.status in (Status.QUEUED, Status.HELD):  # what was certainly not sent is not lost
            is_well = _of(event, "what") not in (AMBIGUOUS, HELD_AMBIGUOUS)
        if all_of_them or not is_well:
            _log(logging.INFO if is_well else logging.WARNING, result, event)


def _log(level: int, result: Result, event: Mapping[str, Any]) -> None:
    email = result.email
    outcome = "deferred" if result.status is Status.QUEUED else str(result.status)
    reply = event if result.status is Status.SENT else _reply(result, event)
    mailer = _of(event, "mailer") or email.mailer or "default"
    code, enhanced = _of(reply, "code"), _of(reply, "enhanced")
    recipients = email.recipients if isinstance(email.recipients, list) else []
    to = named([_of(recipient, "address") for recipient in recipients])
    whole = masked(_of(reply, "text") or _of(reply, "why"))
    text = (whole if code else first_line(whole))[:MAX_TEXT_LENGTH]
    line = f"{outcome} email={email.pk} to={to} mailer={single_line(mailer)}"
    if result.status is Status.PARTIAL and (failed := email.failed_recipients):
        line += f" failed={len(failed)}"
    if result.again is not None:
        line += f" next_try_in={result.again:.0f}"
    if code:
        line += f" code={single_line(code)}"
    if enhanced:
        line += f" enhanced={single_line(enhanced)}"
    if text:
        line += f" text={text!r}"
    # For log formatters that write JSON.
    extra = {"outcome": outcome, "email_id": str(email.pk), "mailer": mailer, "recipients": to}
    extra |= {"code": code, "enhanced": enhanced, "text": single_line(whole)}
    logger.log(level, "%s", line, extra=extra)


def _reply(result: Result, event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the reply, or the reason, that decided. Where some recipients have the email: why the others have not."""
    if result.status is Status.PARTIAL or not (_of(event, "text") or _of(event, "why")):
        recipients = result.email.recipients if isinstance(result.email.recipients, list) else []
        for recipient in reversed(recipients):
            if _of(recipient, "status") == "failed":
                return dict(recipient)
    return event


def _of(value: Any, name: str) -> str:
    """Return a text of an entry, or an empty one where other hands have written something else."""
    return str(value.get(name) or "") if isinstance(value, dict) else ""


# -- the history ------------------------------------------------------------------------------------------------------


def count(results: Sequence[Result]) -> None:
    """Count outcomes that are committed, a mailer at a time.

    Of an email that is sent, the history keeps how long that took since it was due.
    """
    by_mailer: dict[str, list[Result]] = {}
    for result in results:
        by_mailer.setdefault(result.email.via or result.email.mailer, []).append(result)
    for mailer, of_mailer in by_mailer.items():
        _count(shown_alias(alias_of(mailer)), of_mailer)


def _count(mailer: str, results: Sequence[Result]) -> None:
    arrived, seconds, wrong = list[float](), list[float](), list[Result]()
    for result in results:
        email, status = result.email, result.status
        queued_at = aware(email.created_at).timestamp()
        if isinstance(email.events, list) and len(email.events) == 1:  # then it is new to the history
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


def trouble_of(email: Email) -> str:
    """Return what groups emails that went wrong in the same way: the reply or the reason, without recipients."""
    recipients = email.recipients if isinstance(email.recipients, list) else []
    addresses = [str(each.get("address", "")) for each in recipients if isinstance(each, dict)]
    return without_details(single_line(reason_of(email)), addresses)
