"""PostgreSQL's table of invitations, full: nearly all accepted or expired, the newest still waiting to be sent."""

from __future__ import annotations

from typing import Any

FILL = """
INSERT INTO mailrail_invitations_invitation (
    email, sender_id, created, sent, accepted_at, revoked_at, expires_at, role, message, payload, public_id, salt,
    generation, queued_at, mails)
SELECT 'guest-' || n || '@example.com',
    CASE WHEN n <= 5 THEN %(rare)s ELSE %(common)s END,
    moment, CASE WHEN n > %(count)s - %(unsent)s THEN NULL ELSE moment END,
    CASE WHEN n %% 3 = 0 THEN moment END, CASE WHEN n %% 1000 = 1 THEN moment END,
    CASE WHEN n %% 2 = 0 THEN moment ELSE now() + interval '7 days' END,
    CASE WHEN n <= 50 THEN 'owner' ELSE 'member' END, '', '{}'::jsonb,
    substr(md5(n::text), 1, 16), substr(md5(n::text), 1, 12), 1, moment, 1
FROM (SELECT n, to_timestamp(1700000000 + n) AS moment FROM generate_series(1, %(count)s) n) AS numbered
"""


def fill(cursor: Any, count: int, rare: int, common: int) -> None:
    """Invitations of two senders, by their keys: five of the rare one."""
    values = {"count": count, "unsent": count // 100, "rare": rare, "common": common}
    cursor.execute(FILL, values)
    cursor.execute("ANALYZE mailrail_invitations_invitation")


def empty(cursor: Any) -> None:
    cursor.execute("TRUNCATE mailrail_invitations_invitation RESTART IDENTITY")
