"""Store the outcomes of many emails at once, and never over what somebody else has stored meanwhile."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any
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
_encode = json.JSONEncoder(check_circular=False).encode

# One statement for a group, so that no transaction has to be begun and ended: each round trip is one that connections
# wait for. The values are one JSON text, as psycopg takes longer to write arrays of them. LIMIT tells the planner how
# many there are; it would take any JSON for a hundred rows, and read the whole table. No index answers a
# CASE. Where ANALYZE last saw nothing queued, the planner would find the status by its index, and walk past all that
# was queued since. Ids come back only where some rows were changed meanwhile.
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
        SELECT * FROM unnest(%(intents)s::uuid[], %(versions)s::int[]) AS i (id, version) LIMIT %(many_intents)s
    ) AS i
    WHERE e.id = i.id AND e.version = i.version
        AND CASE e.status WHEN 'queued' THEN true WHEN 'sending' THEN true ELSE false END
    RETURNING e.id
)
SELECT
    CASE WHEN (SELECT count(*) FROM saved) < %(many_results)s THEN ARRAY(SELECT id FROM saved) END,
    CASE WHEN (SELECT count(*) FROM claimed) < %(many_intents)s THEN ARRAY(SELECT id FROM claimed) END
"""


def store_outcomes(results: Sequence[Result], intents: Collection[Email], using: str) -> set[UUID]:
    """Commit the outcomes, and that the emails of ``intents`` are about to be sent: all of it, or none.

    Return the ids of those that somebody else has changed meanwhile: nothing is written for them.
    """
    emails = [result.email for result in results]
    if connections[using].vendor != "postgresql":
        lost = _store_one_by_one(results, emails, intents, using)
    elif suppressing := [result for result in results if result.suppress]:
        with transaction.atomic(using):
            lost = _store_together(results, intents, using)
            _suppress(suppressing, lost, using)
    else:
        lost = _store_together(results, intents, using)
    for email in emails:
        if not lost or email.id not in lost:
            email.version += 1
    for email in intents:
        if not lost or email.id not in lost:
            email.version += 1
            email.status = Status.SENDING
    return lost


def _store_together(results: Sequence[Result], intents: Collection[Email], using: str) -> set[UUID]:
    values: dict[str, Any] = {
        "results": _encode([_row(result) for result in results]),
        "many_results": len(results),
        "intents": f"{{{','.join([email.id.hex for email in intents])}}}",
        "versions": f"{{{','.join([str(email.version) for email in intents])}}}",
        "many_intents": len(intents),
        "now": aware(timezone.now()),
    }
    [(saved, claimed)] = execute_prepared(connections[using], _STORE, values, PLAN_CACHE_S)
    lost: set[UUID] = set()
    emails = [result.email for result in results]
    for wanted, written in ((emails, saved), (intents, claimed)):
        if written is not None:
            lost.update({email.id for email in wanted}.difference(written))
    return lost


def _row(result: Result) -> dict[str, Any]:
    """Return a row. Times keep all their digits, which Django's encoder cuts to milliseconds. A missing column becomes
    NULL."""
    email = result.email
    changed_at, sent_at = email.changed_at, email.sent_at
    changed = result.at or aware(changed_at).isoformat()  # to write it anew takes half as long as the row
    row = {
        "id": email.id.hex,
        "version": email.version,
        "status": email.status,
        "recipients": email.recipients,
        "attempts": email.attempts,
        "events": email.events,
        "changed_at": changed,
        "sent_at": changed if sent_at is changed_at else sent_at and aware(sent_at).isoformat(),
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
) -> set[UUID]:
    connection = connections[using]
    fields = [Email._meta.get_field(name) for name in WRITTEN_COLUMNS]
    [now] = _prepared([fields[WRITTEN_COLUMNS.index("changed_at")]], [timezone.now()], connection)
    lost: set[UUID] = set()
    with transaction.atomic(using), connection.cursor() as cursor:
        for email in emails:
            values = _prepared(fields, [getattr(email, name) for name in WRITTEN_COLUMNS], connection)
            if not cursor.execute(_SAVE, [*values, email.id.hex, email.version]).rowcount:
                lost.add(email.id)
        _suppress(results, lost, using)
        for email in intents:
            if not cursor.execute(_CLAIM, [now, email.id.hex, email.version]).rowcount:
                lost.add(email.id)
    return lost


def _prepared(fields: Sequence[Any], values: Sequence[Any], connection: Any) -> list[Any]:
    """Return values as Django hands them to the driver."""
    return [field.get_db_prep_save(value, connection) for field, value in zip(fields, values, strict=True)]


def _suppress(results: Sequence[Result], lost: set[UUID], using: str) -> None:
    """Put addresses of results that were not ``lost`` onto the suppression list."""
    rows = [
        Suppression(address=address, reason="bounce", note=reason)
        for result in results
        if result.email.pk not in lost
        for address, reason in result.suppress.items()
    ]
    if rows:
        Suppression.objects.using(using).bulk_create(rows, ignore_conflicts=True)
