"""PostgreSQL's tables of messages, full: a backlog in twenty channels, and as many dead ones."""

from __future__ import annotations

from typing import Any
from uuid import UUID

CHANNELS = [f"c{n:02d}" for n in range(20)]
RARE, COMMON, FEW = "shop.errors.Rare", "ValueError", 5
"""Classes of errors, and how many died of the rare one: the first ones."""

WAITING = """
INSERT INTO mailrail_message
    (id, channel, content, priority, due, sent_at, lane, lane_seq, held, worker, token, attempt)
SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'c' || lpad((n %% 20)::text, 2, '0'),
    '{"id":' || n || ',"text":"' || repeat('x', 60) || '"}', CASE n %% 4 WHEN 3 THEN 10 ELSE 0 END,
    date_part('epoch', now()) + CASE
        WHEN n <= %(claimed)s THEN 600 -- claimed
        WHEN n %% 3 = 0 THEN 3600 + n -- scheduled
        ELSE n - 10000000 END,
    0, NULL, NULL, 0, CASE WHEN n <= %(claimed)s THEN 'host-1' END, CASE WHEN n <= %(claimed)s THEN n END,
    (n <= %(claimed)s)::int
FROM generate_series(1, %(count)s) n
UNION ALL
SELECT ('00000000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid, 'c00', '{}', 0,
    date_part('epoch', now()) - n, 0, 'l', n, (n > 1)::int, NULL, NULL, 0
FROM generate_series(1, %(held)s) n
"""
DEAD = """
INSERT INTO mailrail_dead (id, channel, content, attempt, sent_at, buried_at, error_class, error)
SELECT ('00000000-0000-7000-a000-' || lpad(to_hex(n), 12, '0'))::uuid, 'c' || lpad((n %% 20)::text, 2, '0'),
    '{"id":' || n || ',"text":"' || repeat('x', 60) || '"}', 5, 0, 1700000000 + n / 3,
    CASE WHEN n <= %(few)s THEN %(rare)s WHEN n %% 2 = 0 THEN %(common)s ELSE 'shop.errors.E' || n %% 7 END,
    'Traceback (most recent call last):' || chr(10) || repeat('  File "consumers.py", line 7, in consume' || chr(10), 5)
FROM generate_series(1, %(count)s) n
"""


def fill(cursor: Any, count: int) -> None:
    """As many that wait as are dead. A hundredth is claimed, a tenth more is in one lane."""
    cursor.execute(WAITING, {"count": count, "claimed": count // 100, "held": count // 10})
    cursor.execute(DEAD, {"count": count, "few": FEW, "rare": RARE, "common": COMMON})
    cursor.execute("ANALYZE mailrail_message, mailrail_dead")


def empty(cursor: Any) -> None:
    cursor.execute("TRUNCATE mailrail_message, mailrail_dead")


def waiting_id(n: int) -> UUID:
    return UUID(f"00000000-0000-7000-8000-{n:012x}")


def dead_id(n: int) -> UUID:
    return UUID(f"00000000-0000-7000-a000-{n:012x}")


def channel_of(n: int) -> str:
    return CHANNELS[n % 20]
