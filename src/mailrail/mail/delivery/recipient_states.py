"""The state of an email by its recipients: whether all have it, and for whom it may be leaving now."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mailrail.addresses import bare

from ..mailers.config import policy_of
from ..models import Email, Status
from ..smtp import DeliveryOutcome, Fate
from ..smtp.replies import Kind, Stage, classify, is_too_many

_SENT, _FAILED = Status.SENT.value, Status.FAILED.value
FINAL_FOR_RECIPIENT = {_SENT, _FAILED, Status.SUPPRESSED.value}
UNDER_WAY = "under_way"
"""Of a recipient: the final dot of its transaction may have left."""


def domain_of(address: str) -> str:
    """Return the domain of an address as rates know it."""
    return bare(address).rpartition("@")[2]


def waiting(email: Email) -> list[str]:
    """Return the recipients that have no final outcome yet."""
    return [
        recipient["address"]
        for recipient in email.recipients
        if recipient["status"] not in FINAL_FOR_RECIPIENT
    ]


def is_ambiguous(email: Email) -> bool:
    """Tell whether a recipient who waits for it may have it already. Then no other mailer may send it."""
    for recipient in email.recipients:
        if recipient.get("ambiguous") and recipient["status"] not in FINAL_FOR_RECIPIENT:
            return True
    return False


def status_by_recipients(recipients: Any) -> Status:
    """Return the status of an email whose recipients all have a final one.

    Those on the suppression list count for nothing beside others: whoever put them there wants them to get no email.
    """
    statuses = {recipient["status"] for recipient in recipients}
    if _SENT in statuses:
        return Status.PARTIAL if _FAILED in statuses else Status.SENT
    return Status.FAILED if _FAILED in statuses else Status.SUPPRESSED


def mark_under_way(email: Email, addresses: Collection[str]) -> None:
    """Mark the recipients to whom the email is about to leave, so that a crash makes only these ambiguous."""
    for recipient in email.recipients:
        recipient.pop(UNDER_WAY, None)
        if recipient["address"] in addresses:
            recipient[UNDER_WAY] = True


def under_way(email: Email) -> set[str]:
    """Return those who are so marked; if nobody is, all who wait."""
    marked = {recipient["address"] for recipient in email.recipients if UNDER_WAY in recipient}
    return marked or {*waiting(email)}


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
