"""What becomes of an email: final, held, or tried again, and when.

What a server has answered is applied in ``answers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mailrail.addresses import bare
from mailrail.backoff import chance
from mailrail.conf import settings
from mailrail.moments import after, aware
from mailrail.storable import storable

from ..models import Email, Status, addresses_with
from .record import (
    AMBIGUOUS,
    FINAL_FOR_RECIPIENT,
    HELD_AMBIGUOUS,
    HELD_FOR_UNFORESEEN,
    NOT_SENT,
    SENDER_REFUSED,
    UNDER_WAY,
    UNFORESEEN,
    add_event,
    is_ambiguous,
    status_by_recipients,
    times,
    times_unsent,
    waiting,
)
from .retries import MAX_UNFORESEEN_ATTEMPTS, RETRY_SOON_S, delay_after, delay_unsent, is_too_old

EXPIRED_FOR_THE_OTHERS = "expired before these recipients got it"


@dataclass(slots=True)
class Result:
    """What to write into a record, and what to do with its message. ``again``: seconds; ``None``: it is final.

    ``is_part``: others of its recipients follow at once. ``is_answer``: the server has decided over the email.
    ``broke``: the connection had broken before, and how. ``mailer_out``: the reply that says that no email can leave by
    this mailer. ``refused_sender``: the one that says so of this sender's mail.
    """

    email: Email
    status: Status
    again: float | None = None
    suppress: dict[str, str] = field(default_factory=dict)  # address -> why
    slow_down: dict[str, str] = field(
        default_factory=dict
    )  # recipient domain, or "" for all mail -> who said so
    is_part: bool = False
    is_answer: bool = False
    broke: str = ""
    mailer_out: str = ""
    refused_sender: str = ""

    def take_over(self, before: Result) -> None:
        """Take over what the transaction before has found."""
        self.suppress = {**before.suppress, **self.suppress}
        self.slow_down = {**before.slow_down, **self.slow_down}
        self.is_answer = self.is_answer or before.is_answer


# -- the three states that an attempt leads to -----------------------------------------------------------------------


def end(email: Email, now: datetime, result: Result | None = None) -> Result:
    """Give it the final status that its recipients add up to."""
    status = status_by_recipients(email.recipients)
    if status in (Status.SENT, Status.PARTIAL):
        email.sent_at = now
    return set_status(email, status, now, result)


def try_again(email: Email, now: datetime, delay: float, result: Result | None = None) -> Result:
    """Queue it for another attempt after so many seconds."""
    result = set_status(email, Status.QUEUED, now, result)
    email.next_try_at, result.again = after(now, delay), delay
    return result


def hold(email: Email, now: datetime, event: str, result: Result | None = None, **facts: Any) -> Result:
    """Hold it until a person decides."""
    add_event(email, now, event, **facts)
    return set_status(email, Status.HELD, now, result)


def set_status(email: Email, status: Status, now: datetime, result: Result | None = None) -> Result:
    """Set a status in which no further attempt is planned."""
    email.status, email.changed_at, email.next_try_at = status, now, None
    result = result or Result(email, status)
    result.status, result.again = status, None
    return result


# -- held, or tried again ---------------------------------------------------------------------------------------------


def defer(
    email: Email,
    now: datetime,
    mailer: str,
    *,
    delay: float | None = None,
    result: Result | None = None,
    **facts: Any,
) -> Result:
    """Try again later what was not sent, through no fault of its own. No attempt is counted.

    ``delay``: seconds; by default they grow with each time in a row. ``facts``: why, or the reply.
    """
    add_event(email, now, NOT_SENT, mailer=mailer, **facts)
    return try_again(email, now, delay_unsent(email) if delay is None else delay, result)


def keep_ambiguous(
    email: Email, now: datetime, reason: str, mailer: str, result: Result | None = None
) -> Result:
    """Hold or retry an email that the server may have, as ``MAILRAIL["MAIL_ON_AMBIGUOUS"]`` decides.

    From now on it stays with this mailer, whose server may know its Message-ID; another one would make a second copy.
    The first retry comes at once, as the email is seldom the cause of a crash. Later ones come less and less often, as
    each may be one more copy for the recipient. After its lifetime the email is held.
    """
    ambiguous_before = times(email, AMBIGUOUS)
    marked = [recipient for recipient in email.recipients if recipient.pop(UNDER_WAY, False)]
    for recipient in marked or email.recipients:
        if recipient["status"] not in FINAL_FOR_RECIPIENT:
            recipient["ambiguous"] = True
    if settings.mail_on_ambiguous == "hold" or (ambiguous_before and is_too_old(email, now)):
        return hold(email, now, HELD_AMBIGUOUS, result, mailer=mailer, why=reason)
    add_event(email, now, AMBIGUOUS, mailer=mailer, why=reason)
    delay = delay_after(ambiguous_before) if ambiguous_before else RETRY_SOON_S * chance.uniform(0, 1)
    return try_again(email, now, delay, result)


def hold_for_its_sender(
    email: Email, now: datetime, mailer: str, result: Result | None = None, **facts: Any
) -> Result:
    """Hold an email whose sender the server refuses, with its reply or (``why``) that to another email."""
    return hold(email, now, SENDER_REFUSED, result, mailer=mailer, **facts)


def missing_file(email: Email, now: datetime, reason: str, mailer: str) -> Result:
    """Retry an email whose storage does not have its file: it may not be mounted, or the file may come later.

    Again for the lifetime; once more also where that is over before the first look.
    """
    if times_unsent(email) and is_too_old(email, now):
        return fail(email, now, reason, mailer)
    return defer(email, now, mailer, why=reason)


def fail_unforeseen(email: Email, now: datetime, error: Exception, mailer: str) -> Result:
    """Retry after an error in our own code, a backend's or the project's; hold the email after some attempts.

    Held and not failed: what raised is mended by a deploy, and ``unhold`` sends it then. One that was on its way by
    then may have been sent.
    """
    email.attempts += 1
    reason = f"{type(error).__name__}: {_text_of(error)}"
    if email.status == Status.SENDING:
        return keep_ambiguous(email, now, reason, mailer)
    attempts = times(email, UNFORESEEN) + 1
    if attempts >= MAX_UNFORESEEN_ATTEMPTS:
        return hold(email, now, HELD_FOR_UNFORESEEN, mailer=mailer, why=reason)
    add_event(email, now, UNFORESEEN, mailer=mailer, why=reason)
    return try_again(email, now, delay_after(attempts))


def _text_of(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # some cannot even say what they are
        return "it cannot be shown"


# -- final ------------------------------------------------------------------------------------------------------------


def fail(email: Email, now: datetime, reason: str, mailer: str = "") -> Result:
    """Fail an email that can never be sent as it is."""
    for recipient in email.recipients:
        recipient.pop(UNDER_WAY, None)
        if recipient["status"] not in FINAL_FOR_RECIPIENT:
            recipient.update(status=Status.FAILED.value, text=storable(reason), at=aware(now).isoformat())
    add_event(email, now, "failed", mailer=mailer, why=reason)
    return end(email, now)


def fail_unsound(email: Email, now: datetime, reason: str) -> Result:
    """Fail a record that is not as we write it, and leave its content unchanged."""
    email.events = []
    add_event(email, now, "failed", why=f"the record cannot be read: {reason}")
    return set_status(email, Status.FAILED, now)


def expire(email: Email, now: datetime) -> Result:
    """End an email whose time is over. "Expired" means that nobody has it: one that may have been sent is held, and one
    that some recipients have has failed for the others."""
    if is_ambiguous(email):
        return hold(email, now, HELD_AMBIGUOUS, why=f"expires_at was {email.expires_at}")
    if addresses_with(email.recipients, Status.SENT):
        return fail(email, now, EXPIRED_FOR_THE_OTHERS)
    add_event(email, now, "expired before it was sent")
    return set_status(email, Status.EXPIRED, now)


def suppress(email: Email, now: datetime, suppressed: Mapping[str, str]) -> Result | None:
    """Leave out recipients on the suppression list. A result if nobody is left."""
    for recipient in email.recipients if suppressed else ():
        if (
            recipient["status"] not in FINAL_FOR_RECIPIENT
            and (reason := suppressed.get(bare(recipient["address"]))) is not None
        ):
            recipient.update(status=Status.SUPPRESSED.value, text=reason, at=aware(now).isoformat())
    return None if waiting(email) else end(email, now)
