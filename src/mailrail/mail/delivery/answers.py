"""What a server has answered about an email, or that the connection broke, and what follows for the record.

The rules: RFC 5321 4.2 and 4.5.4.1, RFC 3463. ``replies.classify`` reads a reply, here is what is done about it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from mailrail.addresses import bare
from mailrail.moments import aware
from mailrail.storable import storable

from ..mailers.config import policy_of
from ..models import Email, Status
from ..smtp import DeliveryOutcome, Fate
from ..smtp.replies import Kind, Reply, Stage, Verdict, classify, is_too_many
from .outcomes import Result, defer, end, fail, hold_for_its_sender, keep_ambiguous, set_status, try_again
from .record import (
    FINAL_FOR_RECIPIENT,
    GIVEN_UP,
    TAKEN_IN_PART,
    UNDER_WAY,
    add_event,
    append,
    domain_of,
    facts_of,
    facts_of_outcome,
    mark_under_way,
    under_way,
    waiting,
)
from .retries import delay_after, is_too_old

if TYPE_CHECKING:
    from ..mailers.refused_senders import RefusedSenders

_STATUS = {Kind.ACCEPTED: Status.SENT, Kind.PERMANENT: Status.FAILED, Kind.TRANSIENT: Status.QUEUED}


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
    match outcome.fate:
        case Fate.UNSENT | Fate.AMBIGUOUS:
            return _by_the_break(email, outcome, now, mailer)
        case Fate.UNFIT:
            email.attempts += 1
            return fail(email, now, str(outcome.error), mailer)
        case _:
            return _by_replies(email, outcome, now, mailer, senders, offered, goes_on)


def accept(email: Email, reply: Reply, now: datetime, mailer: str, senders: RefusedSenders) -> Result:
    """Note the reply to a final dot that accepts the email for all who wait: what ``apply_outcome`` comes to then."""
    at, facts, status = aware(now).isoformat(), facts_of(reply), Status.SENT
    for recipient in email.recipients:
        recipient.pop(UNDER_WAY, None)
        if recipient["status"] not in FINAL_FOR_RECIPIENT:
            recipient.update(status="sent", at=at, **facts)
        elif recipient["status"] == "failed":
            status = Status.PARTIAL
    event = {"at": at, "what": "accepted", "mailer": storable(mailer), "stage": "final dot", **facts}
    append(email, {name: value for name, value in event.items() if value})
    senders.let_through(email.sender)
    email.attempts += 1
    email.status, email.changed_at, email.sent_at, email.next_try_at = status, now, now, None
    return Result(email, status, is_answer=True)


def asks_for_less(reply: Reply | None, stage: Stage, mailer: str) -> bool:
    """Tell whether the server of the mailer wants less mail per minute."""
    return reply is not None and classify(reply, stage, rules=policy_of(mailer).replies).slow_down


def may_go_on(outcome: DeliveryOutcome, mailer: str) -> bool:
    """Tell whether the rest of the recipients may be offered at once, in another transaction.

    Not behind a reply that asks to come later, or is about the whole email, nor where there was no room for anybody.
    """
    if outcome.fate is not Fate.REFUSED:
        return outcome.fate is Fate.ACCEPTED
    if outcome.reply is None:
        return not any(map(is_too_many, outcome.refused.values()))
    about_all = outcome.stage not in (Stage.DATA, Stage.DOT)
    verdict = classify(outcome.reply, outcome.stage, rules=policy_of(mailer).replies)
    return not about_all and verdict.kind is Kind.PERMANENT


# -- a connection that broke ------------------------------------------------------------------------------------------


def _by_the_break(email: Email, outcome: DeliveryOutcome, now: datetime, mailer: str) -> Result:
    """Apply a broken connection. Recipients that were refused by then stay refused: a server that closes after too many
    errors would do so at every attempt, before the others."""
    result = Result(email, Status.QUEUED, broke=str(outcome.error))
    sent_to = under_way(email) - outcome.refused.keys()
    _apply_replies(email, replace(outcome, reply=None), now, result, mailer)
    if outcome.fate is Fate.AMBIGUOUS:
        mark_under_way(email, sent_to)
        return keep_ambiguous(email, now, result.broke, mailer, result)
    if asks_for_less(outcome.reply, outcome.stage, mailer):
        result.slow_down[""] = str(outcome.reply)
    return defer(email, now, mailer, result=result, why=result.broke)


# -- replies ----------------------------------------------------------------------------------------------------------


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
    _judge_sender(email, outcome, result, senders)
    if result.mailer_out or (result.refused_sender and mailer != email.mailer):
        result.is_answer = False
        return defer(email, now, mailer, result=result, **facts_of_outcome(outcome))
    if result.refused_sender:
        return hold_for_its_sender(email, now, mailer, result, **facts_of_outcome(outcome))
    if goes_on:
        return _go_on(email, now, outcome, result, mailer)
    return _decide(email, now, outcome, result, mailer)


def _judge_sender(email: Email, outcome: DeliveryOutcome, result: Result, senders: RefusedSenders) -> None:
    """Note in ``senders`` what the replies say of the sender, and in the result whether the mailer is out for it."""
    if outcome.fate is Fate.ACCEPTED:  # by others of its recipients: the next email shows whether it works
        result.mailer_out = result.refused_sender = ""
    if result.refused_sender:
        result.mailer_out = senders.refuse(email.sender, result.refused_sender)
    elif outcome.stage is not Stage.MAIL:
        senders.let_through(email.sender)


def _go_on(email: Email, now: datetime, outcome: DeliveryOutcome, result: Result, mailer: str) -> Result:
    """Keep an email queued whose other recipients follow at once. No attempt is counted, and all have one event."""
    last = email.events[-1] if email.events else {}
    if outcome.fate is Fate.ACCEPTED and last.get("what") != TAKEN_IN_PART:
        add_event(email, now, TAKEN_IN_PART, mailer=mailer, **facts_of_outcome(outcome))
    result.is_part = True
    return set_status(email, Status.QUEUED, now, result)


def _decide(email: Email, now: datetime, outcome: DeliveryOutcome, result: Result, mailer: str) -> Result:
    """End an email that nobody waits for any more, or whose lifetime is over; try again for those who wait."""
    is_over = not waiting(email)
    add_event(
        email,
        now,
        "accepted" if outcome.fate is Fate.ACCEPTED else "refused" if is_over else "refused for now",
        mailer=mailer,
        **facts_of_outcome(outcome),
    )
    if is_over:
        return end(email, now, result)
    if not is_too_old(email, now):
        return try_again(email, now, delay_after(max(1, email.attempts)), result)
    for recipient in email.recipients:
        if recipient["status"] not in FINAL_FOR_RECIPIENT:
            recipient["status"] = Status.FAILED.value
    add_event(email, now, GIVEN_UP, mailer=mailer)
    return end(email, now, result)


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
        address = recipient["address"]
        reply = outcome.reply_for(address) if offered is None or address in offered else None
        if reply is None or recipient["status"] in FINAL_FOR_RECIPIENT:
            continue
        stage = Stage.RCPT if address in outcome.refused else outcome.stage
        verdict = classify(reply, stage, tried, () if reply.positive else policy_of(mailer).replies)
        about_email = about_email or not verdict.connection
        _note_verdict(result, verdict, stage, address, str(reply))
        recipient.update(status=_STATUS[verdict.kind].value, at=aware(now).isoformat(), **facts_of(reply))
    return about_email


def _note_verdict(result: Result, verdict: Verdict, stage: Stage, address: str, reply: str) -> None:
    """Note what a reply means beyond this recipient: for the mailer, the sender, the suppression list and the pace."""
    if verdict.mailer_out:
        result.mailer_out = reply
    if verdict.sender:
        result.refused_sender = reply
    if verdict.suppress:
        result.suppress[bare(address)] = reply
    if verdict.slow_down:
        result.slow_down[domain_of(address) if stage is Stage.RCPT else ""] = reply
