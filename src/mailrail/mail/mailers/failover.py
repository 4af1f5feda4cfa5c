"""Who stands in for a mailer that is out, and which emails may go that way.

An email that may have been sent stays with the mailer that may have sent it. So the record names another mailer
(``Email.via``) before the email leaves by it. That change raises the record's version like any other. A worker
that has read the record before cannot send it any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django.db import connections, transaction

from ..delivery.record import is_ambiguous
from ..models import Email
from .config import alias_of, policy_of

_MOVE = """
UPDATE mailrail_mail_email AS e SET via = %s, version = m.version + 1
FROM unnest(%s::uuid[], %s::int[]) AS m (id, version)
WHERE e.id = m.id AND e.version = m.version
    AND CASE e.status WHEN 'queued' THEN true WHEN 'sending' THEN true ELSE false END -- as in delivery.store
RETURNING e.id
"""


def last_mailer(email: Email) -> str:
    """Return the mailer that had it last."""
    return alias_of(email.via) if email.via else email.mailer


def mailer_of(email: Email) -> str:
    """Return the mailer of an email: its own, or the one that may have sent it."""
    return last_mailer(email) if email.via and is_ambiguous(email) else email.mailer


def candidates(mailer: str) -> list[str]:
    """Return the mailer, and those that stand in for it, in order."""
    others = [alias_of(name) for name in policy_of(mailer).failover]
    return list(dict.fromkeys([mailer, *others]))


def move(emails: Iterable[Email], mailer: str, using: str) -> list[Email]:
    """Write down by which mailer these leave, where that changes. Returns those that somebody else has changed."""
    moving = [email for email in emails if email.via or email.mailer != mailer]
    moving = [email for email in moving if last_mailer(email) != mailer]
    by_via: dict[str, list[Email]] = {}
    for email in moving:
        by_via.setdefault("" if mailer == email.mailer else mailer or "default", []).append(email)
    changed = []
    for via, group in by_via.items():
        moved = _write(group, via, using)
        for email in group:
            if email.pk in moved:
                email.via, email.version = via, email.version + 1
            else:
                changed.append(email)
    return changed


def _write(emails: Sequence[Email], via: str, using: str) -> set[object]:
    if connections[using].vendor == "postgresql":
        with connections[using].cursor() as cursor:
            cursor.execute(_MOVE, [via, [email.pk for email in emails], [email.version for email in emails]])
            return {id for (id,) in cursor.fetchall()}
    rows = Email.objects.using(using).filter(status__in=("queued", "sending"))
    with transaction.atomic(using):
        return {
            email.pk
            for email in emails
            if rows.filter(pk=email.pk, version=email.version).update(via=via, version=email.version + 1)
        }
