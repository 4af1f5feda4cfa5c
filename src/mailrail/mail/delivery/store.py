"""Store the outcomes of many emails at once, and never over what somebody else has stored meanwhile."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connections, transaction
from django.utils import timezone

from mailrail.moments import aware
from mailrail.prepared_statements import execute_prepared

from ..models import Email, Status, Suppression
from .outcomes import Result

WRITTEN_COLUMNS = ("status", "recipients", "attempts", "events", "changed_at", "sent_at", "next_try_at")
MAY_LEAVE = (Status.QUEUED.value, Status.SENDING.value)
"""What may be sent: cancelled, held and final ones may not, whoever made them so."""

PLAN_CACHE_S = 5.0
"""Seconds. To plan the statement below takes a third as long as to execute it."""

# One statement for a group, so that no transaction has to be begun and ended: each round trip is one that connections
# wait for. The values are one JSON text, as to write arrays takes the client longer. LIMIT tells the planner how many
# there are; it would take any JSON for a hundred rows, and read the whole table. No index answers a
# CASE. Where ANALYZE last saw nothing queued, the planner would find the status by its index, and walk past all that
# was queued since.
_STORE = """
WITH saved AS (
    UPDATE mailrail_mail_email AS e SET
        status = r.status, recipients = r.recipients, attempts = r.attempts, events = r.events,
        changed_at = r.changed_at, sent_at = r.sent_at, next_try_at = r.next_try_at, version = r.version + 1
    FROM (
        SELECT * FROM jsonb_to_recordset(%(results)s::jsonb) AS r (
            id uuid, version int, status text, recipients jsonb, attempts int, events jsonb, changed_at timestamptz,
            sent_at timestamptz, next_try_at timestamptz)
        LIMIT %(many_results)s
    ) AS r
    WHERE e.id = r.id AND e.version = r.version
    RETURNING e.id
), claimed AS (
    UPDATE mailrail_mail_email AS e SET status = 'sending', version = i.version + 1, changed_at = %(now)s
    FROM (
        SELECT * FROM jsonb_to_recordset(%(intents)s::jsonb) AS i (id uuid, version int) LIMIT %(many_intents)s
    ) AS i
    WHERE e.id = i.id AND e.version = i.version
        AND CASE e.status WHEN 'queued' THEN true WHEN 'sending' THEN true ELSE false END
    RETURNING e.id
)
SELECT id, true FROM saved UNION ALL SELECT id, false FROM claimed
"""


class Stored(NamedTuple):
    """Ids: of results that were saved, and of emails that may be sent now. The others were changed meanwhile."""

    saved: set[UUID]
    claimed: set[UUID]


def store_outcomes(results: Sequence[Result], intents: Collection[Email], using: str) -> Stored:
    """Commit the outcomes, and that the emails of ``intents`` are about to be sent: all of it, or none."""
    emails = [result.email for result in results]
    if connections[using].vendor != "postgresql":
        stored = _store_one_by_one(results, emails, intents, using)
    elif any(result.suppress for result in results):
        with transaction.atomic(using):
            stored = _store_together(emails, intents, using)
            _suppress(results, stored.saved, using)
    else:
        stored = _store_together(emails, intents, using)
    for email in emails:
        email.version += email.id in stored.saved
    for email in intents:
        if email.id in stored.claimed:
            email.version += 1
            email.status = Status.SENDING
    return stored


def _store_together(emails: Sequence[Email], intents: Collection[Email], using: str) -> Stored:
    values: dict[str, Any] = {
        "results": json.dumps([_row(email) for email in emails]),
        "many_results": len(emails),
        "intents": json.dumps([{"id": email.id.hex, "version": email.version} for email in intents]),
        "many_intents": len(intents),
        "now": aware(timezone.now()),
    }
    stored = Stored(set(), set())
    for id, is_result in execute_prepared(connections[using], _STORE, values, PLAN_CACHE_S):
        (stored.saved if is_result else stored.claimed).add(id)
    return stored


def _row(email: Email) -> dict[str, Any]:
    """Return a row. Times keep all their digits, which Django's encoder cuts to milliseconds. A missing column becomes
    NULL."""
    row = {
        "id": email.id.hex,
        "version": email.version,
        "status": email.status,
        "recipients": email.recipients,
        "attempts": email.attempts,
        "events": email.events,
        "changed_at": aware(email.changed_at).isoformat(),
        "sent_at": email.sent_at and aware(email.sent_at).isoformat(),
    }
    if email.next_try_at is not None:
        row["next_try_at"] = aware(email.next_try_at).isoformat()
    return row


# Past the ORM, which takes ten times as long as SQLite to find one row by its id.
_SAVE = f"""
UPDATE mailrail_mail_email SET {", ".join(f"{name} = %s" for name in WRITTEN_COLUMNS)}, version = version + 1
WHERE id = %s AND version = %s
"""
_CLAIM = """
UPDATE mailrail_mail_email SET status = 'sending', changed_at = %s, version = version + 1
WHERE id = %s AND version = %s AND status IN ('queued', 'sending')
"""


def _store_one_by_one(
    results: Sequence[Result], emails: Sequence[Email], intents: Collection[Email], using: str
) -> Stored:
    connection = connections[using]
    fields = [Email._meta.get_field(name) for name in WRITTEN_COLUMNS]
    [now] = _prepared([fields[WRITTEN_COLUMNS.index("changed_at")]], [timezone.now()], connection)
    stored = Stored(set(), set())
    with transaction.atomic(using), connection.cursor() as cursor:
        for email in emails:
            values = _prepared(fields, [getattr(email, name) for name in WRITTEN_COLUMNS], connection)
            if cursor.execute(_SAVE, [*values, email.id.hex, email.version]).rowcount:
                stored.saved.add(email.id)
        _suppress(results, stored.saved, using)
        for email in intents:
            if cursor.execute(_CLAIM, [now, email.id.hex, email.version]).rowcount:
                stored.claimed.add(email.id)
    return stored


def _prepared(fields: Sequence[Any], values: Sequence[Any], connection: Any) -> list[Any]:
    """Return values as Django hands them to the driver."""
    return [field.get_db_prep_save(value, connection) for field, value in zip(fields, values, strict=True)]


def _suppress(results: Sequence[Result], saved: set[UUID], using: str) -> None:
    rows = [
        Suppression(address=address, reason="bounce", note=reason)
        for result in results
        if result.email.pk in saved
        for address, reason in result.suppress.items()
    ]
    if rows:
        Suppression.objects.using(using).bulk_create(rows, ignore_conflicts=True)
