"""One line for each outcome of an email; nothing for email that waits for its mailer, a rate or its time."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mailrail.log import logger_of
from mailrail.terminal import single_line
from mailrail.tracebacks import first_line

from ..models import Email, Status
from ..smtp.log_recipients import masked, named
from .events import AMBIGUOUS, HELD_AMBIGUOUS
from .outcomes import Result

logger = logger_of("mailrail.mail")

MAX_TEXT_LENGTH = 300
"""Characters of what a server said."""


def log(results: Sequence[Result]) -> None:
    """Log what became of these emails, which is committed: failures as warnings, all else as information."""
    if not results or not logger.isEnabledFor(logging.WARNING):
        return
    all_of_them = logger.isEnabledFor(logging.INFO)
    for result in results:
        level = _level(result)
        if all_of_them or level >= logging.WARNING:
            _log(level, result)


def _level(result: Result) -> int:
    """Mail that is held for its sender is not lost, and a line of its own warns of that sender."""
    if result.status in (Status.QUEUED, Status.HELD):
        is_well = _of(_last_event(result.email), "what") not in (AMBIGUOUS, HELD_AMBIGUOUS)
    else:
        is_well = result.status in (Status.SENT, Status.SUPPRESSED)
    return logging.INFO if is_well else logging.WARNING


def _log(level: int, result: Result) -> None:
    email, event = result.email, _last_event(result.email)
    outcome = "deferred" if result.status is Status.QUEUED else str(result.status)
    mailer = _of(event, "mailer") or email.mailer or "default"
    reply = _reply(email, event, outcome)
    to = named([_of(recipient, "address") for recipient in email.recipients])
    failed = email.failed_recipients if result.status is Status.PARTIAL else []
    whole = masked(_of(reply, "text") or _of(reply, "why"))
    text = (whole if _of(reply, "code") else first_line(whole))[:MAX_TEXT_LENGTH]
    line = f"{outcome} email={email.pk} to={to} mailer={single_line(mailer)}"
    if failed:
        line += f" failed={len(failed)}"
    if result.again is not None:
        line += f" next_try_in={result.again:.0f}"
    for name in ("code", "enhanced"):
        if value := _of(reply, name):
            line += f" {name}={single_line(value)}"
    if text:
        line += f" text={text!r}"
    facts = {"code": _of(reply, "code"), "enhanced": _of(reply, "enhanced"), "text": single_line(whole)}
    # For log formatters that write JSON.
    extra = {"outcome": outcome, "email_id": str(email.pk), "mailer": mailer, "recipients": to, **facts}
    logger.log(level, "%s", line, extra=extra)


def _reply(email: Email, event: Mapping[str, Any], outcome: str) -> Mapping[str, Any]:
    """Return the reply, or the reason, that decided. Where some recipients have the email: why the others have not."""
    if outcome == "partial" or not (_of(event, "text") or _of(event, "why")):
        for recipient in reversed(email.recipients):
            if _of(recipient, "status") == "failed":
                return dict(recipient)
    return event


def _last_event(email: Email) -> Mapping[str, Any]:
    """Return the event of this outcome; recipients that are all suppressed leave none."""
    event = email.events[-1] if isinstance(email.events, list) and email.events else None
    return event if isinstance(event, dict) else {}


def _of(value: Any, name: str) -> str:
    """Return a text of an entry, or an empty one where other hands have written something else."""
    return str(value.get(name) or "") if isinstance(value, dict) else ""
