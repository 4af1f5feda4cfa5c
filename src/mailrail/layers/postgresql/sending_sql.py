"""Taking in what is sent."""

from __future__ import annotations

from .sql import CLOCK, NOW

# One message without key or lane: the common one. The notification is part of the statement: no second round trip, and
# PostgreSQL sends equal ones of a transaction once. With VALUES and without WITH, planning it takes half as long.
ENQUEUE = f"""
INSERT INTO mailrail_message
    (id, channel, content, headers, v, attempt, losses, alone, max_attempts, priority, due, expires, sent_at)
VALUES (
    %(id)s, %(channel)s, %(content)s, %(headers)s, %(v)s, %(attempt)s, %(losses)s, %(alone)s, %(max_attempts)s,
    %(priority)s, COALESCE(%(due)s::float8, {NOW} + %(delay)s),
    COALESCE({NOW} + %(lifetime)s::float8, %(expires)s::float8), {NOW})
ON CONFLICT (id) DO NOTHING -- a repeat of an id is harmless
RETURNING pg_notify('mailrail', channel)
"""

# Many, none of them with a key. Those of a lane take its next places in the order given. The lane's lock is held, and
# INSERT takes the rows in the order of the sorted subquery.
ENQUEUE_MANY = """
WITH stored AS (
    INSERT INTO mailrail_message
        (id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
         expires, sent_at)
    SELECT
        id, channel, content, headers, v, lane, CASE WHEN lane IS NOT NULL THEN nextval('mailrail_lane_seq') END,
        attempt, losses, alone, max_attempts, priority,
        -- one clock for each: the order of sending is the order of their dues
        COALESCE(due, date_part('epoch', clock_timestamp()) + delay),
        COALESCE(date_part('epoch', clock_timestamp()) + lifetime, expires),
        date_part('epoch', clock_timestamp())
    FROM (
        SELECT * FROM unnest(
            %(id)s::uuid[], %(channel)s::text[], %(content)s::text[], %(headers)s::text[], %(v)s::smallint[],
            %(lane)s::text[], %(attempt)s::int[], %(losses)s::int[], %(alone)s::bool[], %(max_attempts)s::int[],
            %(priority)s::smallint[], %(due)s::float8[], %(delay)s::float8[], %(expires)s::float8[],
            %(lifetime)s::float8[])
        WITH ORDINALITY AS given (
            id, channel, content, headers, v, lane, attempt, losses, alone, max_attempts, priority, due, delay,
            expires, lifetime, place)
        ORDER BY place) AS sorted
    ON CONFLICT (id) DO NOTHING
    RETURNING channel)
SELECT pg_notify('mailrail', channel) FROM (SELECT DISTINCT channel FROM stored) AS channels
"""

# With a key. DO NOTHING without a target gives way to a twin as well as to a repeat of the id. A value that is named
# twice has to be of one type, where the server binds it.
ENQUEUE_WITH_KEY = f"""
WITH stored AS (
    INSERT INTO mailrail_message
        (id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
         expires, sent_at, key, unique_key)
    SELECT
        %(id)s, %(channel)s, %(content)s, %(headers)s, %(v)s, %(lane)s::text,
        CASE WHEN %(lane)s::text IS NOT NULL THEN nextval('mailrail_lane_seq') END,
        %(attempt)s, %(losses)s, %(alone)s, %(max_attempts)s, %(priority)s, COALESCE(%(due)s::float8, now + %(delay)s),
        COALESCE(now + %(lifetime)s::float8, %(expires)s::float8), now, %(key)s, %(key)s
    FROM (SELECT {NOW} AS now) AS clock
    ON CONFLICT DO NOTHING
    RETURNING id, channel)
SELECT id, pg_notify('mailrail', channel) FROM stored
"""

# The waiting twin is locked until the sender's transaction ends: it cannot run before the sender's change is visible.
# The lock is the weakest that keeps claims away, and the row is updated only when it has to be. Otherwise a worker that
# frees the twin in its lane would wait for the sender. Claimed meanwhile, its unique_key is gone and nothing is found.
JOIN_TWIN = f"""
WITH {CLOCK}, twin AS MATERIALIZED (
    SELECT id, channel FROM mailrail_message
    WHERE channel = %(channel)s AND unique_key = %(key)s FOR KEY SHARE),
given AS (
    SELECT COALESCE(%(due)s::float8, now + %(delay)s) AS due,
        COALESCE(now + %(lifetime)s::float8, %(expires)s::float8) AS expires
    FROM clock),
changed AS (
    UPDATE mailrail_message m SET
        due = LEAST(m.due, given.due), -- the earlier of the twins
        -- the later one; NULL, never, wins
        expires = CASE WHEN m.expires IS NOT NULL AND given.expires IS NOT NULL
            THEN GREATEST(m.expires, given.expires) END
    FROM given
    WHERE m.id = ANY (ARRAY (SELECT id FROM twin))
        AND (given.due < m.due OR m.expires < COALESCE(given.expires, 'infinity')))
SELECT id, pg_notify('mailrail', channel) FROM twin
"""
