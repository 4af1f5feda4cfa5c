"""Looking at channels, and what a person or another worker asks of them."""

from __future__ import annotations

from ..database_sql import COLUMNS, DEAD_COLUMNS
from .sql import CLOCK, IN_USE, LEVELS, NOW, OF_DEAD

CANCEL = """
DELETE FROM mailrail_message
WHERE id = ANY (%(ids)s::uuid[]) AND channel = %(channel)s AND token IS NULL
RETURNING id, channel, lane, lane_seq
"""

# Per level, as claims read them, and beside them those of lanes that are held.
WAITING = f"""
WITH RECURSIVE open (channel) AS (SELECT %(channel)s::text), {LEVELS}
SELECT {COLUMNS} FROM (
    SELECT m.* FROM level CROSS JOIN LATERAL (
        SELECT {COLUMNS} FROM mailrail_message m
        WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0 AND m.token IS NULL
        ORDER BY m.due, m.id LIMIT %(limit)s) AS m
    UNION ALL
    (SELECT {COLUMNS} FROM mailrail_message m
     WHERE m.channel = %(channel)s AND m.held = 1 AND m.token IS NULL ORDER BY m.due, m.id LIMIT %(limit)s)
) AS waiting
ORDER BY due, id LIMIT %(limit)s
"""

KNOWN = """
SELECT id FROM mailrail_message WHERE id = ANY (%(ids)s::uuid[]) AND channel = %(channel)s
UNION ALL
SELECT id FROM mailrail_dead WHERE id = ANY (%(ids)s::uuid[]) AND channel = %(channel)s
"""

DEAD = f"""
SELECT {DEAD_COLUMNS}, NULL, NULL, error, buried_at FROM mailrail_dead
WHERE channel = %(channel)s AND buried_at <= %(before_at)s AND (buried_at, id) < (%(before_at)s, %(before_id)s::uuid)
ORDER BY buried_at DESC, id DESC LIMIT %(limit)s
"""

LANES_OF_DEAD = """
SELECT DISTINCT lane FROM mailrail_dead
WHERE id = ANY (%(ids)s::uuid[]) AND channel = %(channel)s AND lane IS NOT NULL
"""

REQUEUE = f"""
WITH back AS (
    INSERT INTO mailrail_message
        (id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
         expires, sent_at, key)
    SELECT id, channel, content, headers, v, lane, CASE WHEN lane IS NOT NULL THEN nextval('mailrail_lane_seq') END,
        0, LEAST(losses, 1), alone, max_attempts, priority, {NOW}, NULL, sent_at, key
    FROM mailrail_dead WHERE id = %(id)s AND channel = %(channel)s
    ON CONFLICT (id) DO NOTHING
    RETURNING channel)
SELECT pg_notify('mailrail', channel) FROM back
"""

DISCARD = "DELETE FROM mailrail_dead WHERE id = ANY (%(ids)s::uuid[]) AND channel = %(channel)s RETURNING id"

PAUSE = f"""
INSERT INTO mailrail_pause (channel, since) VALUES (%(channel)s, {NOW}) ON CONFLICT (channel) DO NOTHING
"""

NEW_BUCKET = f"""
INSERT INTO mailrail_bucket (name, tokens, filled_at) VALUES (%(name)s, %(tokens)s, {NOW})
ON CONFLICT (name) DO NOTHING
"""
# The lock makes takers wait for each other; the clock is read after it was had.
BUCKET = f"""
SELECT tokens, {NOW} - filled_at FROM (
    SELECT tokens, filled_at FROM mailrail_bucket WHERE name = %(name)s FOR UPDATE) AS bucket
"""
FILL_BUCKET = f"UPDATE mailrail_bucket SET tokens = %(tokens)s, filled_at = {NOW} WHERE name = %(name)s"

HEARTBEAT = f"""
INSERT INTO mailrail_worker (id, details, seen) VALUES (%(id)s, %(details)s, {NOW})
ON CONFLICT (id) DO UPDATE SET details = excluded.details, seen = excluded.seen
"""
# Locked rows are left to whoever deletes them just now.
GOODBYE = f"""
DELETE FROM mailrail_worker WHERE id = ANY (ARRAY (
    SELECT id FROM mailrail_worker WHERE id = %(id)s OR seen < {NOW} - %(forgotten)s FOR UPDATE SKIP LOCKED))
"""
WORKERS = f"""
SELECT id, details, {NOW} - seen FROM mailrail_worker WHERE seen >= {NOW} - %(forgotten)s ORDER BY id
"""

# Exact up to so many of a kind for each channel and priority; more are not counted but estimated (ESTIMATE).
STATS = f"""
WITH RECURSIVE
    {CLOCK},
    {IN_USE},
    {LEVELS},
    counted AS (
        SELECT level.channel, ready.n AS ready, ready.oldest, later.scheduled, later.claimed
        FROM level
        CROSS JOIN LATERAL (
            SELECT count(*) AS n, MIN(due) AS oldest FROM (
                SELECT due FROM mailrail_message m
                WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0
                    AND m.due <= (SELECT now FROM clock) ORDER BY m.due LIMIT %(most)s + 1) AS few) AS ready
        CROSS JOIN LATERAL ( -- those claimed are due soon, so they come first
            SELECT
                count(*) FILTER (WHERE token IS NULL) AS scheduled,
                count(*) FILTER (WHERE token IS NOT NULL) AS claimed
            FROM (
                SELECT token FROM mailrail_message m
                WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0
                    AND m.due > (SELECT now FROM clock) ORDER BY m.due LIMIT %(most)s + 1) AS few) AS later
        WHERE level.priority IS NOT NULL
        UNION ALL
        SELECT open.channel, behind.ready, behind.oldest, behind.scheduled, 0
        FROM open CROSS JOIN LATERAL (
            SELECT
                count(*) FILTER (WHERE due <= (SELECT now FROM clock)) AS ready,
                MIN(due) AS oldest,
                count(*) FILTER (WHERE due > (SELECT now FROM clock)) AS scheduled
            FROM (
                SELECT due FROM mailrail_message m WHERE m.channel = open.channel AND m.held = 1
                ORDER BY m.due LIMIT %(most)s + 1) AS few) AS behind
        WHERE open.channel IS NOT NULL)
SELECT channel, SUM(ready)::int, SUM(scheduled)::int, SUM(claimed)::int,
    (SELECT now FROM clock) - MIN(oldest)
FROM counted GROUP BY channel
"""
# The planner's own estimate of a count too large to make.
ESTIMATE = """
EXPLAIN (FORMAT JSON) SELECT FROM mailrail_message
WHERE channel = %(channel)s AND due {comparison} date_part('epoch', now())
"""

# Likewise.
DEAD_COUNTS = f"""
WITH RECURSIVE {OF_DEAD}
SELECT channel, (
    SELECT count(*) FROM (
        SELECT FROM mailrail_dead d WHERE d.channel = buried.channel LIMIT %(most)s + 1) AS few)
FROM buried WHERE channel IS NOT NULL
"""
ESTIMATE_DEAD = "EXPLAIN (FORMAT JSON) SELECT FROM mailrail_dead WHERE channel = %(channel)s"

NOTIFY = "SELECT pg_notify('mailrail', %(channel)s)"
