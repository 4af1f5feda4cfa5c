"""Store the outcomes of many emails at once, and never over what somebody else has stored meanwhile."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connections, transaction
from django.utils import timezone

from mailrail.moments import aware
from mailrail.prepared_statements import execute_prepared

from ..models import Email, Status, Suppression
from .outcomes import Result

WRITTEN_COLUMNS = ("status", "recipients", "attempts", "events", "changed_at", "sent_at", "next_try_at")

PLAN_CACHE_S = 5.0
"""Seconds. To plan the statement below takes a third as long as to execute it."""
_encode = json.JSONEncoder(check_circular=False).encode

# One statement for a group, so that no transaction has to be begun and ended: each round trip is one that connections
# wait for. Each column travels as one array or JSON text: the server takes less for it than for a JSON object of each
# row. The arrays are read in a select list, as FROM would copy each of them first. LIMIT tells the planner how many
# rows there are. No index answers a CASE. Where ANALYZE last saw nothing queued, the planner would find the status by
# its index, and walk past all that was queued since. Ids come back only where some rows were changed meanwhile.
_STORE = """
WITH saved AS (
    UPDATE mailrail_mail_email AS e SET
        status = r.status, recipients = r.recipients, attempts = r.attempts, events = r.events,
        changed_at = to_timestamp(r.changed_at), sent_at = to_timestamp(r.sent_at),
        next_try_at = to_timestamp(r.next_try_at), version = r.version + 1
    FROM (
        SELECT unnest(%(ids)s::uuid[]) AS id, unnest(%(versions)s::int[]) AS version,
            unnest(%(statuses)s::text[]) AS status, unnest(%(attempts)s::int[]) AS attempts,
            unnest(%(changed_at)s::float8[]) AS changed_at, unnest(%(sent_at)s::float8[]) AS sent_at,
            unnest(%(next_try_at)s::float8[]) AS next_try_at,
            jsonb_array_elements(%(recipients)s::jsonb) AS recipients, jsonb_array_elements(%(events)s::jsonb) AS events
        LIMIT %(many_results)s
    ) AS r
    WHERE e.id = r.id AND e.version = r.version
    RETURNING e.id
), claimed AS (
    UPDATE mailrail_mail_email AS e SET
        status = 'sending', version = i.version + 1, changed_at = to_timestamp(%(now)s::float8)
    FROM (
        SELECT unnest(%(intents)s::uuid[]) AS id, unnest(%(intent_versions)s::int[]) AS version
        LIMIT %(many_intents)s
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
    emails, suppressing = [result.email for result in results], [it for it in results if it.suppress]
    if connections[using].vendor != "postgresql":
        lost = _store_one_by_one(emails, suppressing, intents, using)
    elif suppressing:
        with transaction.atomic(using):
            lost = _store_together(emails, intents, using)
            _suppress(suppressing, lost, using)
    else:
        lost = _store_together(emails, intents, using)
    for email in emails:
        if not lost or email.id not in lost:
            email.version += 1
    for email in intents:
        if not lost or email.id not in lost:
            email.version += 1
            email.status = Status.SENDING
    return lost


def _store_together(emails: Sequence[Email], intents: Collection[Email], using: str) -> set[UUID]:
    changed = [_seconds(email.changed_at) for email in emails]
    sent = [
        text if email.sent_at is email.changed_at else _seconds(email.sent_at)
        for email, text in zip(emails, changed, strict=True)
    ]
    values: dict[str, Any] = {
        "ids": _array([email.id.hex for email in emails]),
        "versions": _array([str(email.version) for email in emails]),
        "statuses": _array([email.status for email in emails]),
        "attempts": _array([str(email.attempts) for email in emails]),
        "changed_at": _array(changed),
        "sent_at": _array(sent),
        "next_try_at": _array(
            [_seconds(email.next_try_at) if email.next_try_at else "NULL" for email in emails]
        ),
        "recipients": _encode([email.recipients for email in emails]),
        "events": _encode([email.events for email in emails]),
        "many_results": len(emails),
        "intents": _array([email.id.hex for email in intents]),
        "intent_versions": _array([str(email.version) for email in intents]),
        "many_intents": len(intents),
        "now": _seconds(timezone.now()),
    }
    [(saved, claimed)] = execute_prepared(connections[using], _STORE, values, PLAN_CACHE_S)
    lost: set[UUID] = set()
    for wanted, written in ((emails, saved), (intents, claimed)):
        if written is not None:
            lost.update({email.id for email in wanted}.difference(written))
    return lost


def _array(items: list[str]) -> str:
    """Return an array as PostgreSQL reads it, of items that need no quotes: a driver takes longer to write one."""
    return f"{{{','.join(items)}}}"


def _seconds(moment: datetime | None) -> str:
    """Return Unix seconds for ``to_timestamp``, with all digits. The server reads them sooner than a date."""
    return "NULL" if moment is None else repr(aware(moment).timestamp())


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
    emails: Sequence[Email], suppressing: Sequence[Result], intents: Collection[Email], using: str
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
        if suppressing:
            _suppress(suppressing, lost, using)
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
