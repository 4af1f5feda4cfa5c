"""What the record of an email says: of each recipient, and of what happened when, and what the server said."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from mailrail.addresses import bare
from mailrail.moments import aware
from mailrail.storable import storable

from ..models import Email, Status
from ..smtp import DeliveryOutcome
from ..smtp.replies import Reply

NOT_SENT = "not sent"
TAKEN_IN_PART = "accepted for some recipients; the others follow"
UNFORESEEN = "not sent: an unforeseen error"
HELD_FOR_UNFORESEEN = "held: an unforeseen error, again and again"
AMBIGUOUS = "it may have been sent; sending again"
SENDER_REFUSED = "held: the server refuses its sender"
HELD_AMBIGUOUS = "held: it may have been sent"
GIVEN_UP = "given up: refused for longer than its lifetime"
MAX_EVENTS = 20
"""Events that a record keeps: the first one, and the last."""
_SENT, _FAILED = Status.SENT.value, Status.FAILED.value
FINAL_FOR_RECIPIENT = {_SENT, _FAILED, Status.SUPPRESSED.value}
UNDER_WAY = "under_way"
"""Of a recipient: the final dot of its transaction may have left."""


# -- events ------------------------------------------------------------------------------------------------------------


def add_event(email: Email, now: datetime, kind: str, **facts: Any) -> None:
    """Add an event to the record. Empty facts are left out."""
    storable_facts = {
        name: storable(value) if isinstance(value, str) else value
        for name, value in facts.items()
        if value not in ("", None)
    }
    append(email, {"at": aware(now).isoformat(), "what": kind, **storable_facts})


def append(email: Email, event: dict[str, Any]) -> None:
    before = email.events if isinstance(email.events, list) else []  # other hands may have written the record
    email.events = [*before[:1], *before[1:][2 - MAX_EVENTS :], event]


def times(email: Email, kind: str) -> int:
    """Return how many events of this kind the record knows."""
    return sum(event.get("what") == kind for event in email.events)


def times_unsent(email: Email) -> int:
    """Return how often in a row the email was not sent, as far as the record knows."""
    count = 0
    for event in reversed(email.events):
        if event.get("what") != NOT_SENT:
            break
        count += 1
    return count


def facts_of(reply: Reply) -> dict[str, Any]:
    """Return what an event, or a recipient, keeps of a reply."""
    return {"code": reply.code, "enhanced": reply.enhanced, "text": reply.text[:500]}


def facts_of_outcome(outcome: DeliveryOutcome) -> dict[str, Any]:
    """Return the stage of an outcome, and what an event keeps of the reply that decided."""
    reply = outcome.reply or next(iter(outcome.refused.values()), None)
    return {"stage": str(outcome.stage), **(facts_of(reply) if reply else {})}


# -- recipients --------------------------------------------------------------------------------------------------------


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
