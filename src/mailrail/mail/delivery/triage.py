"""Which emails of a batch are sent now; the others are settled before anybody talks to a server."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.utils import timezone

from mailrail.addresses import bare
from mailrail.moments import seconds_between

from ..mailers import failover
from ..models import FINAL, Email, Status
from ..records.suppressions import listed
from . import outcomes
from .load import defect_of
from .messages import ClaimedMessages, dispatch_of
from .outcomes import Result
from .writer import OutcomeWriter

FINAL_OR_HELD = {*map(Status, FINAL), Status.HELD}
"""Final, or held: releasing it sends a message of its own, whose number (``Email.dispatch``) voids those before it."""
OTHER_WORKER_GRACE_S = 60.0
"""Seconds that an email is left to another worker which may be alive."""


def triage(
    emails: Iterable[Email],
    messages: ClaimedMessages,
    writer: OutcomeWriter,
    using: str,
    has_suppressions: bool = True,
) -> list[Email]:
    """Return the emails to send now. The others are settled."""
    now = timezone.now()
    results: list[Result] = []
    sound: list[Email] = []
    for email in emails:
        message = messages[email.id]
        if email.status in FINAL_OR_HELD or dispatch_of(message.content) < email.dispatch:
            messages.finish(email.id)
        elif defect := defect_of(email):
            results.append(outcomes.fail_unsound(email, now, defect))
        elif email.send_at is not None and (left := _seconds_until_due(email, now)) > 0:
            messages.release(email.id, left, "its time has not come")
        elif email.status == Status.SENDING and (wait := _wait_for_another(email, message.losses, now)) > 0:
            messages.release(email.id, wait, "another worker may be sending it")
        else:
            sound.append(email)
    suppressed = _suppressed(sound, using) if has_suppressions else {}
    ready = []
    for email in sound:
        if (result := _ended(email, now, suppressed)) is None:
            ready.append(email)
        else:
            results.append(result)
    writer.write(results)
    return ready


def _ended(email: Email, now: datetime, suppressed: dict[str, str]) -> Result | None:
    """Return what became of an email that is not sent now; ``None``, if it is."""
    if email.status == Status.SENDING:
        mailer = failover.last_mailer(email)
        return outcomes.keep_ambiguous(email, now, "the worker that sent it died", mailer)
    if email.expires_at is not None and seconds_between(email.expires_at, now) >= 0:
        return outcomes.expire(email, now)
    return outcomes.suppress(email, now, suppressed)


def _seconds_until_due(email: Email, now: datetime) -> float:
    if email.send_at is None or email.status != Status.QUEUED:
        return 0.0
    return seconds_between(now, email.send_at)


def _wait_for_another(email: Email, losses: int, now: datetime) -> float:
    """Return the seconds to wait for another message that has this email, which is being sent. A message without a
    loss did not leave it so, so another message did. That happens when the layer was wiped and reconciliation has sent
    the messages again."""
    return 0.0 if losses else seconds_between(now, email.changed_at) + OTHER_WORKER_GRACE_S


def _suppressed(emails: Iterable[Email], using: str) -> dict[str, str]:
    return listed({bare(recipient["address"]) for email in emails for recipient in email.recipients}, using)
