"""What the PostgreSQL layer asks of PostgreSQL (14 and up), whole statements with the reason for each unusual clause.

Placeholders are psycopg's ``%(name)s``. Lists travel as arrays and are read by ``unnest``: the statement's text stays
the same, so that its plan is made once.

``clock`` is read once per statement, and from there by a scalar subquery: ``clock_timestamp()``, unlike ``now()``, goes
on inside a transaction, and a function that is volatile could not be a condition of an index scan.

Rows are always found by a list of ids (``id = ANY (…)``), even where a join would say the same: a queue that was empty
when its statistics were made looks like one row to the planner, and it would walk the whole index to join it.

Nothing here relies on the order in which the parts of a WITH are carried out: they all see the same snapshot
(PostgreSQL manual, 7.8.4).
"""

from __future__ import annotations

COLUMNS = (
    "id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due, expires, "
    "sent_at, key, worker, token"
)
_NAMES = COLUMNS.split(", ")
_OF_M = ", ".join(f"m.{name}" for name in _NAMES)

_NOW = "date_part('epoch', clock_timestamp())"
_CLOCK = f"clock AS MATERIALIZED (SELECT {_NOW} AS now)"

# -- sending --------------------------------------------------------------------------------------------------------

# One message without key or lane: the common one. The notification is part of the statement: no second round trip, and
# PostgreSQL sends equal ones of a transaction once.
ENQUEUE = f"""
WITH stored AS (
    INSERT INTO mailrail_message
        (id, channel, content, headers, v, attempt, losses, alone, max_attempts, priority, due, expires, sent_at)
    SELECT
        %(id)s, %(channel)s, %(content)s, %(headers)s, %(v)s, %(attempt)s, %(losses)s, %(alone)s, %(max_attempts)s,
        %(priority)s, COALESCE(%(due)s::float8, now + %(delay)s),
        COALESCE(now + %(lifetime)s::float8, %(expires)s::float8), now
    FROM (SELECT {_NOW} AS now) AS clock
    ON CONFLICT (id) DO NOTHING -- a repeat of an id is harmless
    RETURNING channel)
SELECT pg_notify('mailrail', channel) FROM stored
"""

# Many, none of them with a key. Those of a lane take its next places in the order given: INSERT takes the rows as the
# sorted subquery yields them, and the lane's lock is held.
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

# With a key. DO NOTHING without a target gives way to a twin as well as to a repeat of the id.
ENQUEUE_WITH_KEY = f"""
WITH stored AS (
    INSERT INTO mailrail_message
        (id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
         expires, sent_at, key, unique_key)
    SELECT
        %(id)s, %(channel)s, %(content)s, %(headers)s, %(v)s, %(lane)s,
        CASE WHEN %(lane)s::text IS NOT NULL THEN nextval('mailrail_lane_seq') END,
        %(attempt)s, %(losses)s, %(alone)s, %(max_attempts)s, %(priority)s, COALESCE(%(due)s::float8, now + %(delay)s),
        COALESCE(now + %(lifetime)s::float8, %(expires)s::float8), now, %(key)s, %(key)s
    FROM (SELECT {_NOW} AS now) AS clock
    ON CONFLICT DO NOTHING
    RETURNING id, channel)
SELECT id, pg_notify('mailrail', channel) FROM stored
"""

# The waiting twin is locked until the sender's transaction ends: it cannot run before the sender's change is visible.
# Claimed meanwhile, its unique_key is gone and nothing is found.
JOIN_TWIN = f"""
WITH {_CLOCK}, twin AS (
    UPDATE mailrail_message m SET
        due = LEAST(due, COALESCE(%(due)s::float8, now + %(delay)s)), -- the earlier of the twins
        -- the later one; NULL, never, wins
        expires = CASE WHEN m.expires IS NOT NULL AND COALESCE(%(expires)s::float8, %(lifetime)s::float8) IS NOT NULL
            THEN GREATEST(m.expires, COALESCE(now + %(lifetime)s::float8, %(expires)s::float8)) END
    FROM clock
    WHERE m.channel = %(channel)s AND m.unique_key = %(key)s
    RETURNING m.id, m.channel)
SELECT id, pg_notify('mailrail', channel) FROM twin
"""

STORED = "SELECT id FROM mailrail_message WHERE id = ANY (%(ids)s::uuid[])"

# Held until the sender's transaction ends, so places in a lane are taken in the order of commits. Only senders take it:
# a long transaction that sends never holds up a worker.
LOCK_LANE = "SELECT pg_advisory_xact_lock(%(lane)s)"

NOTIFY = "SELECT pg_notify('mailrail', %(channel)s)"

# -- choosing what to claim -----------------------------------------------------------------------------------------

_OPEN = """
    open (channel, room, lease) AS MATERIALIZED (
        SELECT *
        FROM unnest(%(channels)s::text[], %(rooms)s::int[], %(leases)s::float8[]) AS wanted (channel, room, lease)
        WHERE NOT EXISTS (SELECT FROM mailrail_pause p WHERE p.channel = wanted.channel))
"""

# The priorities in use, found by jumping through the index from one to the next, never by reading the backlog.
_LEVELS = """
    level (channel, priority, floor) AS (
        SELECT channel, (
            SELECT priority FROM mailrail_message m WHERE m.channel = open.channel AND m.held = 0
            ORDER BY priority DESC LIMIT 1), '-infinity'::float8
        FROM open
        UNION ALL
        SELECT channel, (
            SELECT priority FROM mailrail_message m
            WHERE m.channel = level.channel AND m.priority < level.priority AND m.held = 0
            ORDER BY priority DESC LIMIT 1), '-infinity'::float8
        FROM level WHERE priority IS NOT NULL)
"""

# The same, as known from the claim before: see `Frontier`.
_KNOWN_LEVELS = """
    level (channel, priority, floor) AS (
        SELECT * FROM unnest(%(known_channels)s::text[], %(known_priorities)s::smallint[], %(floors)s::float8[]))
"""

# Settle, choose and lease, in one round trip.
_CLAIM = f"""
WITH RECURSIVE
    {_CLOCK},
    {_OPEN},
    {{levels}},
    given (id, token) AS MATERIALIZED (SELECT * FROM unnest(%(ids)s::uuid[], %(tokens)s::bigint[])),
    -- The token alone decides. Those of lanes are left to FINISH_IN_LANES.
    finished AS (
        DELETE FROM mailrail_message m USING given
        WHERE m.id = ANY (%(ids)s::uuid[]) AND m.id = given.id AND m.token = given.token AND m.lane IS NULL
        RETURNING m.id, m.token),
    -- 1,000 at a time. Claimed messages are safe until their lease is over. `ANY (ARRAY (…))` is found once, first.
    expired AS (
        DELETE FROM mailrail_message WHERE id = ANY (ARRAY (
            SELECT old.id FROM open CROSS JOIN LATERAL (
                SELECT id FROM mailrail_message m
                WHERE m.channel = open.channel AND m.expires <= (SELECT now FROM clock) AND m.lane IS NULL
                    AND (m.token IS NULL OR m.due <= (SELECT now FROM clock))
                    AND NOT EXISTS (SELECT FROM given WHERE given.id = m.id AND given.token = m.token)
                LIMIT 1000 FOR UPDATE SKIP LOCKED) AS old))
        RETURNING {COLUMNS}),
    -- At most `room` rows are read and locked for each channel and priority; only those few are sorted below.
    found AS MATERIALIZED (
        SELECT first.*, open.channel, open.room, open.lease,
            first.lane IS NOT NULL AND EXISTS (
                SELECT FROM mailrail_message ahead
                WHERE ahead.channel = open.channel AND ahead.lane = first.lane AND ahead.lane_seq < first.lane_seq
            ) AS blocked
        FROM level JOIN open USING (channel) CROSS JOIN LATERAL (
            SELECT id, lane, lane_seq, priority, due FROM mailrail_message m
            WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0
                AND m.due <= (SELECT now FROM clock) AND m.due >= level.floor
                AND (m.expires IS NULL OR m.expires > (SELECT now FROM clock))
                AND m.id <> ALL (%(besides)s::uuid[])
            ORDER BY m.due, m.id LIMIT open.room
            FOR UPDATE SKIP LOCKED -- what another worker is about to claim is not waited for
        ) AS first),
    ranked AS (
        SELECT id, lease, room, priority, due,
            row_number() OVER (PARTITION BY channel ORDER BY priority DESC, due, id) AS nth
        FROM found
        -- Those blocked may stand where better ones could: first they are put out of the way (PARK), if they can be.
        WHERE NOT blocked AND (%(despite)s OR NOT EXISTS (SELECT FROM found WHERE blocked))),
    chosen AS MATERIALIZED (
        SELECT id, lease, due AS was_due, row_number() OVER (ORDER BY priority DESC, due, id) AS place
        FROM ranked WHERE nth <= room ORDER BY priority DESC, due, id LIMIT %(total)s),
    leased AS (
        UPDATE mailrail_message m SET
            due = (SELECT now FROM clock) + chosen.lease,
            worker = %(worker)s,
            token = %(token)s,
            -- A token that is still there means: the last lease lapsed unsettled.
            attempt = m.attempt + (m.token IS NULL)::int,
            losses = m.losses + (m.token IS NOT NULL)::int,
            unique_key = NULL -- started: the key is free
        FROM chosen WHERE m.id = ANY (ARRAY (SELECT id FROM chosen)) AND m.id = chosen.id
        RETURNING chosen.place, chosen.was_due, {_OF_M})
SELECT 'claimed' AS what, place, was_due, {COLUMNS} FROM leased
UNION ALL
SELECT 'expired', 0, NULL, {COLUMNS} FROM expired
UNION ALL
SELECT 'lost', 0, NULL, id, '', '', '', 0, NULL, NULL, 0, 0, FALSE, NULL, 0, 0, NULL, 0, NULL, NULL, token
FROM given WHERE NOT EXISTS (SELECT FROM finished f WHERE f.id = given.id AND f.token = given.token)
UNION ALL
SELECT DISTINCT 'blocked', 0, NULL::float8, NULL::uuid, channel, '', '', 0, lane, NULL::bigint, 0, 0, FALSE,
    NULL::int, 0, 0, NULL::float8, 0, NULL, NULL, NULL::bigint
FROM found WHERE blocked
UNION ALL
SELECT 'overdue', 0, NULL, NULL, channel, '', '', 0, NULL, NULL, 0, 0, FALSE, NULL, 0, 0, NULL, 0, NULL, NULL, NULL
FROM open WHERE EXISTS ( -- expired ones of lanes are dropped by a statement of their own
    SELECT FROM mailrail_message m
    WHERE m.channel = open.channel AND m.expires <= (SELECT now FROM clock) AND m.lane IS NOT NULL
        AND (m.token IS NULL OR m.due <= (SELECT now FROM clock)))
"""
CLAIM = _CLAIM.format(levels=_LEVELS)
CLAIM_ON = _CLAIM.format(levels=_KNOWN_LEVELS)

# When the next thing is due on these channels: the head of each level.
NEXT_DUE = f"""
WITH RECURSIVE
    open (channel) AS MATERIALIZED (
        SELECT channel FROM unnest(%(channels)s::text[]) AS wanted (channel)
        WHERE NOT EXISTS (SELECT FROM mailrail_pause p WHERE p.channel = wanted.channel)),
    {_LEVELS}
SELECT MIN((
    SELECT due FROM mailrail_message m
    WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0
    ORDER BY due LIMIT 1)) - {_NOW}
FROM level WHERE priority IS NOT NULL
"""

# What a claim has leased whose answer never came, under a new token and with a whole lease. What is leased is due
# within the lease from now: nothing else is read, but for what is scheduled for these seconds.
ADOPT = f"""
WITH RECURSIVE
    {_CLOCK},
    open (channel, lease) AS MATERIALIZED (SELECT * FROM unnest(%(channels)s::text[], %(leases)s::float8[])),
    {_LEVELS}
UPDATE mailrail_message m SET
    due = (SELECT now FROM clock) + (SELECT lease FROM open WHERE open.channel = m.channel), token = %(token)s
WHERE m.id = ANY (ARRAY (
    SELECT leased.id FROM level JOIN open USING (channel) CROSS JOIN LATERAL (
        SELECT id FROM mailrail_message m
        WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0
            AND m.due > (SELECT now FROM clock) AND m.due <= (SELECT now FROM clock) + open.lease
            AND m.token = ANY (%(unanswered)s::bigint[])
        ORDER BY m.due LIMIT 10000 -- with a limit, it stays a loop over levels, and is no join of the whole table
        ) AS leased))
RETURNING {_OF_M}
"""

# -- settling -------------------------------------------------------------------------------------------------------

_GIVEN = "given (id, token) AS MATERIALIZED (SELECT * FROM unnest(%(ids)s::uuid[], %(tokens)s::bigint[]))"

# Returns what it did not find: lost, or of a lane.
FINISH = f"""
WITH {_GIVEN}, gone AS (
    DELETE FROM mailrail_message m USING given
    WHERE m.id = ANY (%(ids)s::uuid[]) AND m.id = given.id AND m.token = given.token AND m.lane IS NULL
    RETURNING m.id, m.token)
SELECT id, token FROM given WHERE NOT EXISTS (SELECT FROM gone WHERE gone.id = given.id AND gone.token = given.token)
"""

# ADVANCE_LANES follows in the same transaction.
FINISH_IN_LANES = f"""
WITH {_GIVEN}
DELETE FROM mailrail_message m USING given
WHERE m.id = ANY (%(ids)s::uuid[]) AND m.id = given.id AND m.token = given.token
RETURNING m.id, m.token, m.channel, m.lane
"""

# Waits for nobody: what is locked is being settled just now, by the other connection of this worker most likely. Two
# statements that wait for each other's rows would be a deadlock.
RENEW = f"""
WITH {_CLOCK}, {_GIVEN}, held AS MATERIALIZED (
    SELECT m.id, m.channel FROM given JOIN mailrail_message m ON m.id = given.id AND m.token = given.token
    WHERE m.id = ANY (%(ids)s::uuid[])
    FOR NO KEY UPDATE OF m SKIP LOCKED),
pushed AS (
    UPDATE mailrail_message m SET due = (SELECT now FROM clock) + leases.lease
    FROM held JOIN unnest(%(channels)s::text[], %(leases)s::float8[]) AS leases (channel, lease) USING (channel)
    WHERE m.id = ANY (ARRAY (SELECT id FROM held)) AND m.id = held.id)
SELECT id, token FROM given WHERE NOT EXISTS (
    SELECT FROM mailrail_message m
    WHERE m.id = ANY (%(ids)s::uuid[]) AND m.id = given.id AND m.token = given.token)
"""

GIVE_BACK = f"""
WITH {_CLOCK}, {_GIVEN}, back AS (
    UPDATE mailrail_message m SET
        due = (SELECT now FROM clock) + %(delay)s, attempt = m.attempt + %(attempts)s, alone = m.alone OR %(alone)s,
        worker = NULL, token = NULL
    FROM given WHERE m.id = ANY (%(ids)s::uuid[]) AND m.id = given.id AND m.token = given.token
    RETURNING m.id, given.token, m.channel),
told AS (SELECT pg_notify('mailrail', channel) FROM (SELECT DISTINCT channel FROM back) AS channels)
SELECT id, token FROM given WHERE NOT EXISTS (SELECT FROM back WHERE back.id = given.id AND back.token = given.token)
    AND (SELECT count(*) FROM told) >= 0 -- or the notification, which nobody reads, is left out
"""

_DEAD_NAMES = _NAMES[:-2]
_DEAD_COLUMNS = ", ".join(_DEAD_NAMES)

BURY = f"""
WITH {_CLOCK}, {_GIVEN}, gone AS (
    DELETE FROM mailrail_message m USING given
    WHERE m.id = ANY (%(ids)s::uuid[]) AND m.id = given.id AND m.token = given.token
    RETURNING m.token, {", ".join(f"m.{name}" for name in _DEAD_NAMES)}),
kept AS (
    INSERT INTO mailrail_dead ({_DEAD_COLUMNS}, error, buried_at)
    SELECT {_DEAD_COLUMNS}, %(error)s, now FROM gone, clock
    ON CONFLICT (id) DO UPDATE SET -- the id was sent again after its first death
        {", ".join(f"{name} = excluded.{name}" for name in [*_DEAD_NAMES[1:], "error", "buried_at"])})
SELECT id, token, channel, lane FROM gone -- ADVANCE_LANES follows in the same transaction
"""

# -- lanes ----------------------------------------------------------------------------------------------------------

# Take messages behind another one of their lane out of the index that claims read, 1,000 at a time. The one they wait
# for is locked against removal: whoever removes it comes after us, sees them held, and lets the next one go. One that
# is being removed just now is passed over, and they stay where they are.
PARK = """
UPDATE mailrail_message m SET held = 1 WHERE m.id = ANY (ARRAY (
    SELECT behind.id
    FROM unnest(%(channels)s::text[], %(lanes)s::text[]) AS lane (channel, name)
    CROSS JOIN LATERAL (
        SELECT lane_seq FROM mailrail_message h WHERE h.channel = lane.channel AND h.lane = lane.name
        ORDER BY lane_seq LIMIT 1 FOR KEY SHARE SKIP LOCKED) AS ahead
    CROSS JOIN LATERAL (
        SELECT id FROM mailrail_message b
        WHERE b.channel = lane.channel AND b.lane = lane.name AND b.lane_seq > ahead.lane_seq AND b.held = 0
        ORDER BY b.lane_seq LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED) AS behind
))
"""

# After something left these lanes: their lowest place becomes claimable. Has to be a statement of its own, after the
# removal: its snapshot shows what was parked until then. Says how many were held and could not be let go (removed by
# somebody in the same moment): then once more.
ADVANCE_LANES = """
WITH heads AS MATERIALIZED (
    SELECT head.id, lane.channel
    FROM unnest(%(channels)s::text[], %(lanes)s::text[]) AS lane (channel, name)
    CROSS JOIN LATERAL (
        SELECT id, held FROM mailrail_message h WHERE h.channel = lane.channel AND h.lane = lane.name
        ORDER BY lane_seq LIMIT 1) AS head
    WHERE head.held = 1),
free AS (
    UPDATE mailrail_message m SET held = 0
    WHERE m.id = ANY (ARRAY (SELECT id FROM heads)) RETURNING m.id, m.channel),
told AS (SELECT pg_notify('mailrail', channel) FROM (SELECT DISTINCT channel FROM free) AS channels)
SELECT (SELECT count(*) FROM heads) - (SELECT count(*) FROM free) + 0 * (SELECT count(*) FROM told)
"""

# Of lanes: their next one has to be let go in the same transaction, so not in the statement that claims.
DROP_EXPIRED_IN_LANES = f"""
WITH {_CLOCK}
DELETE FROM mailrail_message WHERE id = ANY (ARRAY (
    SELECT old.id FROM unnest(%(channels)s::text[]) AS wanted (channel) CROSS JOIN LATERAL (
        SELECT id FROM mailrail_message m
        WHERE m.channel = wanted.channel AND m.expires <= (SELECT now FROM clock) AND m.lane IS NOT NULL
            AND (m.token IS NULL OR m.due <= (SELECT now FROM clock))
        LIMIT 1000 FOR UPDATE SKIP LOCKED) AS old
    WHERE NOT EXISTS (SELECT FROM mailrail_pause p WHERE p.channel = wanted.channel)))
RETURNING {COLUMNS}
"""

# -- operating ------------------------------------------------------------------------------------------------------

CANCEL = """
DELETE FROM mailrail_message
WHERE id = ANY (%(ids)s::uuid[]) AND channel = %(channel)s AND token IS NULL
RETURNING id, channel, lane
"""

# Per level, as claims read them, and beside them those of lanes that are held.
WAITING = f"""
WITH RECURSIVE open (channel) AS (SELECT %(channel)s::text), {_LEVELS}
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

DEAD = f"""
SELECT {_DEAD_COLUMNS}, NULL, NULL, error, buried_at FROM mailrail_dead
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
        0, LEAST(losses, 1), alone, max_attempts, priority, {_NOW}, NULL, sent_at, key
    FROM mailrail_dead WHERE id = %(id)s AND channel = %(channel)s
    ON CONFLICT (id) DO NOTHING
    RETURNING channel)
SELECT pg_notify('mailrail', channel) FROM back
"""

DISCARD = "DELETE FROM mailrail_dead WHERE id = ANY (%(ids)s::uuid[]) AND channel = %(channel)s RETURNING id"

PAUSE = f"""
INSERT INTO mailrail_pause (channel, since) VALUES (%(channel)s, {_NOW}) ON CONFLICT (channel) DO NOTHING
"""
RESUME = "DELETE FROM mailrail_pause WHERE channel = %(channel)s"

NEW_BUCKET = f"""
INSERT INTO mailrail_bucket (name, tokens, filled_at) VALUES (%(name)s, %(tokens)s, {_NOW})
ON CONFLICT (name) DO NOTHING
"""
# The lock makes takers wait for each other; the clock is read after it was had.
BUCKET = f"""
SELECT tokens, {_NOW} - filled_at FROM (
    SELECT tokens, filled_at FROM mailrail_bucket WHERE name = %(name)s FOR UPDATE) AS bucket
"""
FILL_BUCKET = f"UPDATE mailrail_bucket SET tokens = %(tokens)s, filled_at = {_NOW} WHERE name = %(name)s"

HEARTBEAT = f"""
INSERT INTO mailrail_worker (id, details, seen) VALUES (%(id)s, %(details)s, {_NOW})
ON CONFLICT (id) DO UPDATE SET details = excluded.details, seen = excluded.seen
"""
# Locked rows are left to whoever deletes them just now.
GOODBYE = f"""
DELETE FROM mailrail_worker WHERE id = ANY (ARRAY (
    SELECT id FROM mailrail_worker WHERE id = %(id)s OR seen < {_NOW} - %(forgotten)s FOR UPDATE SKIP LOCKED))
"""
WORKERS = f"""
SELECT id, details, {_NOW} - seen FROM mailrail_worker WHERE seen >= {_NOW} - %(forgotten)s ORDER BY id
"""

# Exact up to 10,000 of a kind for each channel and priority; more are not counted but estimated (ESTIMATE).
STATS = f"""
WITH RECURSIVE
    {_CLOCK},
    open (channel) AS ( -- the channels in use, found by jumping through the index
        (SELECT channel FROM mailrail_message WHERE held = 0 ORDER BY channel LIMIT 1)
        UNION ALL
        SELECT (
            SELECT m.channel FROM mailrail_message m WHERE m.channel > open.channel AND m.held = 0
            ORDER BY m.channel LIMIT 1)
        FROM open WHERE channel IS NOT NULL),
    {_LEVELS},
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
