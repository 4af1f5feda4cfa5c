"""A PostgreSQL table full of emails, as years of use leave it: nearly all sent, the newest of them still queued."""

from __future__ import annotations

from typing import Any
from uuid import UUID

FILL = """
INSERT INTO mailrail_mail_email (
    id, status, mailer, sender, recipients, subject, content, message_id, date, size, events, key, tags, related_object,
    created_at, changed_at, sent_at)
SELECT
    (lpad(to_hex(at_ms), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid,
    status,
    CASE WHEN n <= 50 THEN 'rare' WHEN n %% 10 = 0 THEN 'bulk' ELSE 'smtp' END,
    'Shop <shop@example.com>',
    jsonb_build_array(jsonb_build_object('address', 'customer' || n || '@example.com', 'status', status,
        'code', 250, 'enhanced', '2.0.0', 'text', 'Ok: queued as ' || md5(n::text), 'at', moment)),
    'Your order ' || n || ' is on its way',
    jsonb_build_object('v', 1, 'kind', 'message', 'attachments', '[]'::jsonb, 'attributes', '{}'::jsonb,
        'files', '{}'::jsonb, 'large', '[]'::jsonb, 'fields', jsonb_build_object(
            'subject', 'Your order ' || n || ' is on its way', 'body', repeat('Thank you for your order. ', 15),
            'from_email', 'Shop <shop@example.com>', 'to', jsonb_build_array('customer' || n || '@example.com'),
            'cc', '[]'::jsonb, 'bcc', '[]'::jsonb, 'reply_to', '[]'::jsonb, 'extra_headers', '{}'::jsonb,
            'content_subtype', 'plain', 'encoding', NULL)),
    '<' || n || '.' || md5(n::text) || '@example.com>',
    moment,
    900,
    jsonb_build_array(jsonb_build_object('at', moment, 'what', 'accepted', 'mailer', 'smtp', 'code', 250)),
    'order-' || n,
    CASE WHEN n = 77 THEN '["unique"]'::jsonb WHEN n %% 2 = 0 THEN '["order"]'::jsonb ELSE '[]'::jsonb END,
    CASE WHEN n %% 20 = 0 THEN 'shop.shop:1' ELSE 'shop.order:' || n END,
    moment, moment, CASE status WHEN 'sent' THEN moment END
FROM (
    SELECT n, 1700000000000 + n * 1000::bigint AS at_ms, to_timestamp(1700000000 + n) AS moment,
        CASE WHEN n > %(count)s - %(queued)s THEN 'queued' WHEN n %% 200 = 1 THEN 'failed'
            WHEN n %% 1000 = 2 THEN 'cancelled' WHEN n %% 10000 = 3 THEN 'held' ELSE 'sent' END AS status
    FROM generate_series(1, %(count)s) n
) AS numbered
"""
SUPPRESS = """
INSERT INTO mailrail_mail_suppression (address, reason, note, created_at)
SELECT 'gone' || n || '@example.com', 'bounce', '550 5.1.1', now() FROM generate_series(1, %s) n
"""


def fill(cursor: Any, count: int) -> None:
    """Emails number 1 to ``count``; of the newest, a tenth waits. And as many suppressed addresses."""
    cursor.execute(FILL, {"count": count, "queued": count // 10})
    cursor.execute(SUPPRESS, [count])
    cursor.execute("ANALYZE mailrail_mail_email, mailrail_mail_suppression")


def empty(cursor: Any) -> None:
    cursor.execute("TRUNCATE mailrail_mail_email, mailrail_mail_emailfile, mailrail_mail_suppression")


def id_of(n: int) -> UUID:
    return UUID(f"{1700000000000 + n * 1000:012x}70008{n:015x}")


def message_id_of(cursor: Any, n: int) -> str:
    cursor.execute("SELECT message_id FROM mailrail_mail_email WHERE id = %s", [id_of(n)])
    [(found,)] = cursor.fetchall()
    return str(found)
