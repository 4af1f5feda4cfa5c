"""What people decide about queued emails: cancel, hold, unhold, resend. Of a person and a worker, one wins."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import router
from django.utils import timezone
from django.utils.translation import gettext_noop

from mailrail import uuid7
from mailrail.moments import seconds_between
from mailrail.write_transactions import write_transaction

from ..delivery.load import defect_of
from ..delivery.record import add_event, is_ambiguous
from ..models import FINAL, Email, EmailFile, Status
from ..queueing.accept import announce
from ..queueing.files import store_large
from .copies import renew_message_id

CANCELLED_ANYWAY = "cancelled, though it may have been sent"
UNHELD = "taken off hold"
SENT_AGAIN = "sent again"
SENT_ON_REQUEST = frozenset({UNHELD, SENT_AGAIN})
"""Events after which an email is sent on request: by a person in the admin, or by code."""

Subjects: TypeAlias = Email | UUID | str | Iterable[Email | UUID | str]

# Plain here, for programs; the admin translates them.
_FOLLOW: dict[Any, str] = {
    Status.SENDING: gettext_noop("it is being sent just now"),
    Status.SENT: gettext_noop("it is sent"),
    Status.PARTIAL: gettext_noop("it is sent to some of its recipients"),
    Status.QUEUED: gettext_noop("it waits to be sent already"),
    Status.HELD: gettext_noop("it is held: unhold it"),
    Status.FAILED: gettext_noop("it has failed"),
    Status.CANCELLED: gettext_noop("it is cancelled"),
    Status.EXPIRED: gettext_noop("it has expired"),
    Status.SUPPRESSED: gettext_noop("its recipients get no email"),
}
_NO_SUCH = gettext_noop("there is no such email")
_EMPTIED = gettext_noop("its content was removed")
_UNSOUND = gettext_noop("its record cannot be read")
_AMBIGUOUS = gettext_noop("it may have been sent already: nobody knows whether the server has taken it")
_NOT_DEFERRED = gettext_noop("it does not wait for a next attempt")
_NOT_YET = gettext_noop("its time has not come")
_QUICKER = gettext_noop("it was changed in this very moment")


@dataclass(frozen=True)
class Changed:
    """``done``: ids of the emails that were changed. ``refused``: of the others, with the reason."""

    done: list[UUID] = field(default_factory=list)
    refused: dict[UUID, str] = field(default_factory=dict)
    copies: dict[UUID, UUID] = field(default_factory=dict)
    """By ``resend``: a sent email's id -> the id of its copy."""


def cancel(emails: Subjects, *, force: bool = False) -> Changed:
    """Never send these. One that is being sent, or is sent, is refused, and ``Changed.refused`` says so.

    So is one that a server may have taken without an answer: "cancelled" would say that nobody has it. ``force=True``
    cancels it all the same, so that it is not sent again.
    """
    possible = {Status.QUEUED, Status.HELD}
    return _change(emails, possible, _cancel, refuse=None if force else _ambiguous)


def hold(emails: Subjects) -> Changed:
    """Keep these from being sent until ``unhold`` is called for them."""
    return _change(emails, {Status.QUEUED}, lambda email: _set_status(email, Status.HELD, "held"))


def unhold(emails: Subjects) -> Changed:
    """Send what was held. It is tried for its whole lifetime, however long it was held."""
    return _change(emails, {Status.HELD}, _unhold, send=True)


def resend(emails: Subjects) -> Changed:
    """Send again what has ended.

    Recipients who do not have it get the same email, with the same Message-ID. If all have it, all get a copy: a new
    record with a Message-ID of its own. ``Changed.copies`` lists the copies. A Message-ID that the sender chose goes
    into References.
    """
    return _change(emails, {Status(status) for status in FINAL}, _again, send=True)


def send_now(emails: Subjects) -> Changed:
    """Try at once what waits for its next attempt, after one that failed."""
    return _change(emails, {Status.QUEUED}, _at_once, send=True, refuse=_why_not_now)


async def acancel(emails: Subjects, *, force: bool = False) -> Changed:
    """Call ``cancel`` from async code."""
    return await sync_to_async(cancel)(emails, force=force)


async def ahold(emails: Subjects) -> Changed:
    """Call ``hold`` from async code."""
    return await sync_to_async(hold)(emails)


async def aunhold(emails: Subjects) -> Changed:
    """Call ``unhold`` from async code."""
    return await sync_to_async(unhold)(emails)


async def aresend(emails: Subjects) -> Changed:
    """Call ``resend`` from async code."""
    return await sync_to_async(resend)(emails)


async def asend_now(emails: Subjects) -> Changed:
    """Call ``send_now`` from async code."""
    return await sync_to_async(send_now)(emails)


# -- one transaction, row by row --------------------------------------------------------------------------------------


def _change(
    emails: Subjects,
    possible: set[Status],
    change: Callable[[Email], Email | None],
    *,
    refuse: Callable[[Email], str] | None = None,
    send: bool = False,
) -> Changed:
    """Change locked records, row by row. ``change`` alters a record, and may return a copy to store. All of it commits
    with the caller's work.

    ``refuse``: why a record must not be changed, or an empty text.
    """
    using = router.db_for_write(Email)
    changed = Changed()
    with write_transaction(using):
        for id in sorted(set(_ids(emails))):  # sorted: no two callers wait for each other
            email = Email.objects.using(using).select_for_update().filter(pk=id).first()
            if email is None:
                changed.refused[id] = _NO_SUCH
            elif email.status not in possible:
                changed.refused[id] = _FOLLOW.get(email.status, f"it is {email.status}")
            elif send and email.emptied_at is not None:
                changed.refused[id] = _EMPTIED
            elif send and defect_of(email):
                changed.refused[id] = _UNSOUND
            elif refuse is not None and (reason := refuse(email)):
                changed.refused[id] = reason
            else:
                _save(email, change(email), changed, using, send)
    return changed


def _save(email: Email, copied: Email | None, changed: Changed, using: str, send: bool) -> None:
    """Save a changed record. SQLite has no row locks: there, the version decides whether somebody was quicker."""
    version, email.version = email.version, email.version + 1
    if send and copied is None:
        email.dispatch += (
            1  # the message it had may be claimed by a worker that saw it held, and end after this one's send
        )
    values = {name: getattr(email, name) for name in _CHANGED}
    if not Email.objects.using(using).filter(pk=email.pk, version=version).update(**values):
        changed.refused[email.pk] = _QUICKER
        return
    changed.done.append(email.pk)
    if copied is not None:
        _store_copy(email, copied, using)
        changed.copies[email.pk] = copied.pk
    if send:
        to_send = copied or email
        announce(to_send.mailer, [to_send.pk], using, to_send.priority, to_send.send_at, to_send.dispatch)


def _store_copy(email: Email, copied: Email, using: str) -> None:
    """Store a copy with a Message-ID of its own and the files of the first email."""
    needs = EmailFile.objects.using(using).filter(email=email).values_list("file_id", flat=True)
    files = renew_message_id(copied, email, using)
    copied.save(using=using, force_insert=True)
    if files is None:
        EmailFile.objects.using(using).bulk_create(
            EmailFile(email=copied, file_id=file_id) for file_id in needs
        )
    else:
        store_large({copied.pk: files}, using)


_CHANGED = (
    "status",
    "recipients",
    "events",
    "attempts",
    "version",
    "dispatch",
    "send_at",
    "expires_at",
    "next_try_at",
    "changed_at",
)


def _ids(emails: Subjects) -> list[UUID]:
    if isinstance(emails, Email | UUID | str):
        emails = [emails]
    try:
        subjects = iter(emails)
    except TypeError:
        raise TypeError(f"Give emails or their ids, not {emails!r}.") from None
    return [_id(subject) for subject in subjects]


def _id(email: Email | UUID | str) -> UUID:
    if isinstance(email, Email):
        return email.pk
    if isinstance(email, UUID):
        return email
    try:
        return UUID(email)
    except (ValueError, AttributeError, TypeError):
        raise TypeError(f"Give emails or their ids, not {email!r}.") from None


def _set_status(email: Email, status: Status, event: str, **facts: str) -> None:
    now = timezone.now()
    email.status, email.changed_at, email.next_try_at = status, now, None
    add_event(email, now, event, **facts)


def may_be_sent(email: Email) -> bool:
    """Tell whether a server may have accepted it, which nobody knows."""
    return not defect_of(email) and is_ambiguous(email)


def _ambiguous(email: Email) -> str:
    return _AMBIGUOUS if may_be_sent(email) else ""


def _cancel(email: Email) -> None:
    _set_status(email, Status.CANCELLED, CANCELLED_ANYWAY if may_be_sent(email) else "cancelled")


def _unhold(email: Email) -> None:
    now = timezone.now()
    if email.expires_at is not None and seconds_between(email.expires_at, now) >= 0 and may_be_sent(email):
        email.expires_at = None  # it was held at that time: nobody knew whether it had been sent by then
    if email.send_at is None or seconds_between(email.send_at, now) > 0:
        email.send_at = now
    _set_status(email, Status.QUEUED, UNHELD)


def _why_not_now(email: Email) -> str:
    now = timezone.now()
    if email.next_try_at is None or email.next_try_at <= now:
        return _NOT_DEFERRED
    return _NOT_YET if email.send_at is not None and email.send_at > now else ""


def _at_once(email: Email) -> None:
    _set_status(email, Status.QUEUED, "tried at once")


def _again(email: Email) -> Email | None:
    if all(recipient["status"] == Status.SENT for recipient in email.recipients):
        return _copy(email)
    for recipient in email.recipients:
        if recipient["status"] != Status.SENT:
            recipient["status"] = Status.QUEUED.value
    _begin_anew(email)
    _set_status(email, Status.QUEUED, SENT_AGAIN)
    return None


def _copy(email: Email) -> Email:
    now = timezone.now()
    copied = copy.copy(email)
    copied._state = copy.copy(email._state)
    copied.pk, copied.key, copied.digest, copied.version, copied.dispatch = uuid7(), None, "", 0, 0
    copied.created_at = copied.date = now
    copied.sent_at = None
    copied.recipients = [
        {"address": recipient["address"], "status": Status.QUEUED.value} for recipient in email.recipients
    ]
    copied.events = []
    _begin_anew(copied)
    _set_status(copied, Status.QUEUED, "queued as a copy", why=str(email.pk))
    email.changed_at = now
    add_event(email, now, "sent again, as a copy", why=str(copied.pk))
    return copied


def _begin_anew(email: Email) -> None:
    """Start the lifetime again."""
    now = timezone.now()
    email.attempts, email.send_at = 0, now
    if email.expires_at is not None and seconds_between(email.expires_at, now) >= 0:
        email.expires_at = None
