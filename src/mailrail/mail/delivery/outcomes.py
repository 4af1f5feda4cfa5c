"""What became of an attempt, and what follows for the record: final, or again, and when.

The rules: RFC 5321 4.2 and 4.5.4.1, RFC 3463; ``replies.classify`` reads a reply, here is what is done about it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mailrail.addresses import bare
from mailrail.conf import settings
from mailrail.moments import after, aware, seconds_between
from mailrail.storable import storable

from ..mailers.policies import lifetime_of, policy_of
from ..models import Email, Status, addresses_with
from ..smtp import DeliveryOutcome, Fate
from ..smtp.replies import Kind, Reply, Stage, classify
from .recipient_states import FINAL_FOR_RECIPIENT, UNDER_WAY, mark_under_way, status_by_recipients, under_way

if TYPE_CHECKING:
    from ..mailers.refused_senders import RefusedSenders

MIN_RETRY_S = 60.0
"""Seconds to the second attempt, doubled for each later one. RFC 5321 4.5.4.1 has 30 minutes in mind; greylisting needs
less."""
MAX_RETRY_S = 4 * 3600.0
RETRY_SOON_S, MAX_RETRY_SOON_S = 5.0, 600.0
"""Seconds to the next try when it was not the email's fault: at first, and at most. They grow, as a connection that
breaks at the same email again and again may be that email's fault after all."""
NOT_SENT = "not sent"
TAKEN_IN_PART = "accepted for some recipients; the others follow"
UNFORESEEN = "not sent: an unforeseen error"
HELD_FOR_UNFORESEEN = "held: an unforeseen error, again and again"
MAX_UNFORESEEN_ATTEMPTS = 8
"""Attempts that may end with an error that nobody foresaw, over two hours; the record keeps more events than that."""
AMBIGUOUS = "it may have been sent; sending again"
SENDER_REFUSED = "held: the server refuses its sender"
HELD_AMBIGUOUS = "held: it may have been sent"
EXPIRED_FOR_THE_OTHERS = "expired before these recipients got it"
MAX_EVENTS = 20
"""Events that a record keeps: the first one, and the last."""

_STATUS = {Kind.ACCEPTED: Status.SENT, Kind.PERMANENT: Status.FAILED, Kind.TRANSIENT: Status.QUEUED}


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


def waiting(email: Email) -> list[str]:
    """Return the recipients that have no final outcome yet."""
    return [
        recipient["address"]
        for recipient in email.recipients
        if recipient["status"] not in FINAL_FOR_RECIPIENT
    ]


def domain_of(address: str) -> str:
    """Return the domain of an address as rates know it."""
    return bare(address).rpartition("@")[2]


def is_ambiguous(email: Email) -> bool:
    """Tell whether a recipient who waits for it may have it already. Then no other mailer may send it."""
    return any(
        recipient.get("ambiguous")
        for recipient in email.recipients
        if recipient["status"] not in FINAL_FOR_RECIPIENT
    )


def apply_outcome(
    email: Email,
    outcome: DeliveryOutcome,
    now: datetime,
    mailer: str,
    senders: RefusedSenders,
    offered: Collection[str] | None = None,
    goes_on: bool = False,
) -> Result:
    """Note an outcome of SMTP in the record, which is not saved here, and in ``senders`` what it says of the sender.

    ``offered``: the recipients it is about, if not all who wait. ``goes_on``: others follow at once.
    """
    if outcome.fate in (Fate.UNSENT, Fate.AMBIGUOUS):
        return _by_the_break(email, outcome, now, mailer)
    if outcome.fate is Fate.UNFIT:
        email.attempts += 1
        return fail(email, now, str(outcome.error), mailer)
    return _by_replies(email, outcome, now, mailer, senders, offered, goes_on)


def accept(email: Email, reply: Reply, now: datetime, mailer: str, senders: RefusedSenders) -> Result:
    """Note the reply to a final dot that accepts the email for all who wait: what ``apply_outcome`` comes to then."""
    at, facts = aware(now).isoformat(), _facts(reply)
    for recipient in email.recipients:
        recipient.pop(UNDER_WAY, None)
        if recipient["status"] not in FINAL_FOR_RECIPIENT:
            recipient.update(status="sent", at=at, **facts)
    senders.let_through(email.sender)
    email.attempts += 1
    of_it = {"mailer": storable(mailer), "stage": "final dot", **facts}
    _append(email, {"at": at, "what": "accepted", **{name: value for name, value in of_it.items() if value}})
    result = _final(email, now)
    result.is_answer = True
    return result


def _by_the_break(email: Email, outcome: DeliveryOutcome, now: datetime, mailer: str) -> Result:
    """Apply a broken connection. Recipients that were refused by then stay refused: a server that closes after too many
    errors would do so at every attempt, before the others."""
    result = Result(email, Status.QUEUED, broke=str(outcome.error))
    sent_to = under_way(email) - outcome.refused.keys()
    _apply_replies(email, replace(outcome, reply=None), now, result, mailer)
    if outcome.fate is Fate.AMBIGUOUS:
        mark_under_way(email, sent_to)
        ambiguous = keep_ambiguous(email, now, str(outcome.error), mailer)
        result.status, result.again = ambiguous.status, ambiguous.again
        return result
    add_event(email, now, NOT_SENT, mailer=mailer, why=str(outcome.error))
    if asks_for_less(outcome.reply, outcome.stage, mailer):
        result.slow_down[""] = str(outcome.reply)
    return _again(email, now, _soon(email), result)


def keep_ambiguous(email: Email, now: datetime, reason: str, mailer: str) -> Result:
    """Hold or retry an email that the server may have, as ``MAILRAIL["MAIL_ON_AMBIGUOUS"]`` decides.

    From now on it stays with this mailer, whose server may know its Message-ID; another one would make a second copy.
    The first retry comes at once, as the email is seldom the cause of a crash. Later ones come less and less often, as
    each may be one more copy for the recipient. After its lifetime the email is held.
    """
    ambiguous_before = sum(event.get("what") == AMBIGUOUS for event in email.events)
    marked = [recipient for recipient in email.recipients if recipient.pop(UNDER_WAY, False)]
    for recipient in marked or email.recipients:
        if recipient["status"] not in FINAL_FOR_RECIPIENT:
            recipient["ambiguous"] = True
    if settings.mail_on_ambiguous == "hold" or (ambiguous_before and _is_too_old(email, now)):
        add_event(email, now, HELD_AMBIGUOUS, mailer=mailer, why=reason)
        _set_status(email, Status.HELD, now)
        return Result(email, Status.HELD)
    add_event(email, now, AMBIGUOUS, mailer=mailer, why=reason)
    return _again(
        email, now, delay_after(ambiguous_before) if ambiguous_before else RETRY_SOON_S * random.uniform(0, 1)
    )


def fail_unsound(email: Email, now: datetime, reason: str) -> Result:
    """Fail a record that is not as we write it, and leave its content unchanged."""
    email.events = []
    add_event(email, now, "failed", why=f"the record cannot be read: {reason}")
    _set_status(email, Status.FAILED, now)
    return Result(email, Status.FAILED)


def fail_unforeseen(email: Email, now: datetime, error: Exception, mailer: str) -> Result:
    """Retry after an error in our own code, a backend's or the project's; hold the email after some attempts.

    Held and not failed: what raised is mended by a deploy, and ``unhold`` sends it then. One that was on its way by
    then may have been sent.
    """
    email.attempts += 1
    reason = f"{type(error).__name__}: {_text_of(error)}"
    if email.status == Status.SENDING:
        return keep_ambiguous(email, now, reason, mailer)
    before = sum(event.get("what") == UNFORESEEN for event in email.events)
    if before + 1 < MAX_UNFORESEEN_ATTEMPTS:
        add_event(email, now, UNFORESEEN, mailer=mailer, why=reason)
        return _again(email, now, delay_after(before + 1))
    add_event(email, now, HELD_FOR_UNFORESEEN, mailer=mailer, why=reason)
    _set_status(email, Status.HELD, now)
    return Result(email, Status.HELD)


def _text_of(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # some cannot even say what they are
        return "it cannot be shown"


def fail(email: Email, now: datetime, reason: str, mailer: str = "") -> Result:
    """Fail an email that can never be sent as it is."""
    for recipient in email.recipients:
        recipient.pop(UNDER_WAY, None)
        if recipient["status"] not in FINAL_FOR_RECIPIENT:
            recipient.update(status=Status.FAILED.value, text=storable(reason), at=aware(now).isoformat())
    add_event(email, now, "failed", mailer=mailer, why=reason)
    return _final(email, now)


def missing_file(email: Email, now: datetime, reason: str, mailer: str) -> Result:
    """Retry an email whose storage does not have its file: it may not be mounted, or the file may come later.

    Again for the lifetime; once more also where that is over before the first look.
    """
    if _times_unsent(email) and _is_too_old(email, now):
        return fail(email, now, reason, mailer)
    add_event(email, now, NOT_SENT, mailer=mailer, why=reason)
    return _again(email, now, _soon(email))


def await_storage(email: Email, now: datetime, reason: str, mailer: str) -> Result:
    """Retry an email whose storage does not answer, or not as it should, for as long as that takes: the file is
    there."""
    add_event(email, now, NOT_SENT, mailer=mailer, why=reason)
    return _again(email, now, _soon(email))


def hold_for_its_sender(
    email: Email, now: datetime, mailer: str, result: Result | None = None, **facts: Any
) -> Result:
    """Hold an email whose sender the server refuses, with its reply or (``why``) that to another email."""
    add_event(email, now, SENDER_REFUSED, mailer=mailer, **facts)
    _set_status(email, Status.HELD, now)
    result = result or Result(email, Status.HELD)
    result.status, result.again = Status.HELD, None
    return result


def expire(email: Email, now: datetime) -> Result:
    """End an email whose time is over. "Expired" means that nobody has it: one that may have been sent is held, and one
    that some recipients have has failed for the others."""
    if is_ambiguous(email):
        add_event(email, now, HELD_AMBIGUOUS, why=f"expires_at was {email.expires_at}")
        _set_status(email, Status.HELD, now)
        return Result(email, Status.HELD)
    if addresses_with(email.recipients, Status.SENT):
        return fail(email, now, EXPIRED_FOR_THE_OTHERS)
    add_event(email, now, "expired before it was sent")
    _set_status(email, Status.EXPIRED, now)
    return Result(email, Status.EXPIRED)


def suppress(email: Email, now: datetime, suppressed: Mapping[str, str]) -> Result | None:
    """Leave out recipients on the suppression list. A result if nobody is left."""
    for recipient in email.recipients if suppressed else ():
        if (
            recipient["status"] not in FINAL_FOR_RECIPIENT
            and (reason := suppressed.get(bare(recipient["address"]))) is not None
        ):
            recipient.update(status=Status.SUPPRESSED.value, text=reason, at=aware(now).isoformat())
    return None if waiting(email) else _final(email, now)


def _by_replies(
    email: Email,
    outcome: DeliveryOutcome,
    now: datetime,
    mailer: str,
    senders: RefusedSenders,
    offered: Collection[str] | None,
    goes_on: bool,
) -> Result:
    result = Result(email, Status.QUEUED, is_answer=True)
    is_about_email = _apply_replies(email, outcome, now, result, mailer, offered)
    email.attempts += is_about_email and not goes_on
    if outcome.fate is Fate.ACCEPTED:  # by others of its recipients: the next email shows whether it works
        result.mailer_out = result.refused_sender = ""
    if result.refused_sender:
        result.mailer_out = senders.refuse(email.sender, result.refused_sender)
    elif outcome.stage is not Stage.MAIL:
        senders.let_through(email.sender)
    if result.mailer_out or (result.refused_sender and mailer != email.mailer):
        result.is_answer = False
        add_event(email, now, NOT_SENT, mailer=mailer, **_reply_of(outcome))
        return _again(email, now, _soon(email), result)
    if result.refused_sender:
        return hold_for_its_sender(email, now, mailer, result, **_reply_of(outcome))
    if goes_on:
        return _go_on(email, now, outcome, result, mailer)
    _add_answer(email, now, outcome, mailer)
    if waiting(email):
        if not _is_too_old(email, now):
            return _again(email, now, delay_after(max(1, email.attempts)), result)
        for recipient in email.recipients:
            if recipient["status"] not in FINAL_FOR_RECIPIENT:
                recipient["status"] = Status.FAILED.value
        add_event(email, now, "given up: refused for longer than its lifetime", mailer=mailer)
    return _final(email, now, result)


def _go_on(email: Email, now: datetime, outcome: DeliveryOutcome, result: Result, mailer: str) -> Result:
    """Keep an email queued whose other recipients follow at once. No attempt is counted, and all have one event."""
    last = email.events[-1] if email.events else {}
    if outcome.fate is Fate.ACCEPTED and last.get("what") != TAKEN_IN_PART:
        add_event(email, now, TAKEN_IN_PART, mailer=mailer, **_reply_of(outcome))
    _set_status(email, Status.QUEUED, now)
    result.is_part = True
    return result


def put_off(email: Email, now: datetime, delay: float, reason: str, mailer: str) -> Result:
    """Let the rest of its recipients wait, with no attempt counted: the others have it."""
    add_event(email, now, NOT_SENT, mailer=mailer, why=reason)
    return _again(email, now, delay)


def _add_answer(email: Email, now: datetime, outcome: DeliveryOutcome, mailer: str) -> None:
    """Note what the server's answer means: a 450 is no 554."""
    is_accepted, is_over = outcome.fate is Fate.ACCEPTED, not waiting(email)
    add_event(
        email,
        now,
        "accepted" if is_accepted else "refused" if is_over else "refused for now",
        mailer=mailer,
        **_reply_of(outcome),
    )


def asks_for_less(reply: Reply | None, stage: Stage, mailer: str) -> bool:
    """Tell whether the server of the mailer wants less mail per minute."""
    return reply is not None and classify(reply, stage, rules=policy_of(mailer).replies).slow_down


def _apply_replies(
    email: Email,
    outcome: DeliveryOutcome,
    now: datetime,
    result: Result,
    mailer: str,
    offered: Collection[str] | None = None,
) -> bool:
    """Note the replies that decided over recipients, or those of them that were ``offered``.

    Return whether any of the replies was about the email.
    """
    tried = len(waiting(email) if offered is None else offered)
    about_email = False
    for recipient in email.recipients:
        recipient.pop(UNDER_WAY, None)
        if offered is not None and recipient["address"] not in offered:
            continue
        reply = outcome.reply_for(recipient["address"])
        if recipient["status"] in FINAL_FOR_RECIPIENT or reply is None:
            continue
        stage = Stage.RCPT if recipient["address"] in outcome.refused else outcome.stage
        verdict = classify(reply, stage, tried, () if reply.positive else policy_of(mailer).replies)
        about_email = about_email or not verdict.connection
        if verdict.mailer_out:
            result.mailer_out = str(reply)
        if verdict.sender:
            result.refused_sender = str(reply)
        if verdict.suppress:
            result.suppress[bare(recipient["address"])] = str(reply)
        if verdict.slow_down:
            result.slow_down[domain_of(recipient["address"]) if stage == Stage.RCPT else ""] = str(reply)
        recipient.update(status=_STATUS[verdict.kind].value, at=aware(now).isoformat(), **_facts(reply))
    return about_email


def _again(email: Email, now: datetime, delay: float, result: Result | None = None) -> Result:
    result = result or Result(email, Status.QUEUED)
    email.status, email.changed_at = Status.QUEUED, now
    email.next_try_at = after(now, delay)
    result.status, result.again = Status.QUEUED, delay
    return result


def _final(email: Email, now: datetime, result: Result | None = None) -> Result:
    """Give it the status that its recipients add up to."""
    status = status_by_recipients(email.recipients)
    _set_status(email, status, now)
    if status in (Status.SENT, Status.PARTIAL):
        email.sent_at = now
    result = result or Result(email, status)
    result.status, result.again = status, None
    return result


def _set_status(email: Email, status: Status, now: datetime) -> None:
    """Set a status in which no further attempt is planned."""
    email.status, email.changed_at, email.next_try_at = status, now, None


def _is_too_old(email: Email, now: datetime) -> bool:
    return seconds_between(email.send_at or email.created_at, now) >= lifetime_of(email.mailer)


def _soon(email: Email) -> float:
    """Return a delay in seconds that doubles for each time in a row."""
    return min(MAX_RETRY_SOON_S, RETRY_SOON_S * 2.0 ** max(0, _times_unsent(email) - 1)) * random.uniform(
        1, 1.5
    )


def _times_unsent(email: Email) -> int:
    """Return how often in a row it was not sent, as far as the record knows."""
    times = 0
    for event in reversed(email.events):
        if event.get("what") != NOT_SENT:
            break
        times += 1
    return times


def delay_after(attempts: int) -> float:
    """Return the seconds until the next attempt."""
    return min(MAX_RETRY_S, MIN_RETRY_S * 2.0 ** min(attempts - 1, 20)) * random.uniform(0.75, 1.25)


def _facts(reply: Reply) -> dict[str, Any]:
    return {"code": reply.code, "enhanced": reply.enhanced, "text": reply.text[:500]}


def _reply_of(outcome: DeliveryOutcome) -> dict[str, Any]:
    reply = outcome.reply or next(iter(outcome.refused.values()), None)
    return {"stage": str(outcome.stage), **(_facts(reply) if reply else {})}


def add_event(email: Email, now: datetime, kind: str, **facts: Any) -> None:
    storable_facts = {
        name: storable(value) if isinstance(value, str) else value
        for name, value in facts.items()
        if value not in ("", None)
    }
    _append(email, {"at": aware(now).isoformat(), "what": kind, **storable_facts})


def _append(email: Email, event: dict[str, Any]) -> None:
    before = email.events if isinstance(email.events, list) else []  # other hands may have written the record
    email.events = [*before[:1], *before[1:][2 - MAX_EVENTS :], event]
