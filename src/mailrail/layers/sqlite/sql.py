"""What the SQLite layer asks of SQLite (3.35 and up), whole statements with the reason for each unusual clause.

Placeholders are Django's ``%(name)s``. ``:now`` is the clock of this machine, which is SQLite's own clock, too. All
writes run inside ``BEGIN IMMEDIATE``, so a statement sees what the one before it left and nobody in between. Lists
travel as one JSON text read by ``json_each``. So the statement's text stays the same, and SQLite uses its compiled form
again. The number of parameters has no limit either.
"""

from __future__ import annotations

from ..database_sql import COLUMNS, DEAD_COLUMNS

# A message that has no key and no lane: the common one, and the fast one.
ENQUEUE = """
INSERT INTO mailrail_message
    (id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due, expires,
     sent_at, key, unique_key, held, worker, token)
VALUES
    (%s, %s, %s, %s, %s, NULL, NULL, %s, %s, %s, %s, %s, %s, %s, %s, NULL, NULL, 0, NULL, NULL)
ON CONFLICT (id) DO NOTHING -- a repeat of an id is harmless
"""

# With a key, a lane, or both.
ENQUEUE_IN_ORDER = """
INSERT INTO mailrail_message
    (id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due, expires,
     sent_at, key, unique_key, held, worker, token)
SELECT
    %(id)s, %(channel)s, %(content)s, %(headers)s, %(v)s, %(lane)s,
    -- the lane's next place; nobody else can take it before we commit
    CASE WHEN %(lane)s IS NOT NULL THEN
        1 + COALESCE((SELECT MAX(lane_seq) FROM mailrail_message WHERE channel = %(channel)s AND lane = %(lane)s), 0)
    END,
    %(attempt)s, %(losses)s, %(alone)s, %(max_attempts)s, %(priority)s, %(due)s, %(expires)s, %(sent_at)s,
    %(key)s, %(unique_key)s,
    -- only the head of a lane is in the index that claims read
    EXISTS (SELECT 1 FROM mailrail_message WHERE channel = %(channel)s AND lane = %(lane)s),
    NULL, NULL
WHERE TRUE -- SQLite's grammar needs it between SELECT and ON CONFLICT
ON CONFLICT (id) DO NOTHING
ON CONFLICT (channel, unique_key) WHERE unique_key IS NOT NULL DO UPDATE SET
    due = MIN(due, excluded.due), -- the earlier of the twins
    expires = MAX(expires, excluded.expires) -- the later one; NULL, never, wins: MAX with NULL is NULL
RETURNING id -- the twin's, if there is one; nothing for a repeat
"""

# `held = 0` is written exactly as in the partial index mailrail_ready, or SQLite would not use that.
# The priorities in use, found by jumping through the index from one to the next, never by reading the backlog.
LEVELS = """
    level (channel, priority) AS (
        SELECT channel, (
            SELECT MAX(priority) FROM mailrail_message m WHERE m.channel = open.channel AND held = 0)
        FROM open
        UNION ALL
        SELECT channel, (
            SELECT MAX(priority) FROM mailrail_message m
            WHERE m.channel = level.channel AND m.priority < level.priority AND held = 0)
        FROM level WHERE priority IS NOT NULL
    )
"""
_LEVELS = f"""
WITH RECURSIVE
    open (channel) AS (
        SELECT value FROM json_each(%(channels)s)
        WHERE value NOT IN (SELECT channel FROM mailrail_pause)
    ),
    {LEVELS}
"""

# What may be claimed. At most `most` rows are read for each channel and priority; only those few are sorted.
CLAIMABLE = (
    _LEVELS
    + """
SELECT m.id, m.channel, m.rowid
FROM level CROSS JOIN mailrail_message m -- CROSS JOIN fixes the order of the loops
WHERE m.id IN (
    SELECT id FROM mailrail_message
    WHERE channel = level.channel AND priority = level.priority AND held = 0 AND due <= %(now)s
        AND (expires IS NULL OR expires > %(now)s)
        AND id NOT IN (SELECT value FROM json_each(%(besides)s))
    ORDER BY due, id LIMIT %(most)s)
ORDER BY m.priority DESC, m.due, m.id
"""
)

RENAME = "UPDATE mailrail_message SET id = %(id)s WHERE rowid = %(row)s"

# When the next thing is due on these channels: the head of each level.
NEXT_DUE = (
    _LEVELS
    + """
SELECT MIN((
    SELECT due FROM mailrail_message m
    WHERE m.channel = level.channel AND m.priority = level.priority AND held = 0 ORDER BY due LIMIT 1))
FROM level WHERE priority IS NOT NULL
"""
)

# The lease per channel comes as JSON, too. A token that is still there means: the last lease lapsed unsettled.
LEASE = f"""
UPDATE mailrail_message SET
    due = %(now)s + (SELECT value FROM json_each(%(leases)s) WHERE key = channel),
    worker = %(worker)s,
    token = %(token)s,
    attempt = attempt + (token IS NULL),
    losses = losses + (token IS NOT NULL),
    unique_key = NULL -- started: the key is free
WHERE id IN (SELECT value FROM json_each(%(ids)s))
RETURNING {COLUMNS}
"""

# Claimed messages are safe until their lease is over. 1,000 at a time, so that nobody waits long for the lock.
DROP_EXPIRED = f"""
DELETE FROM mailrail_message WHERE id IN (
    SELECT id FROM mailrail_message
    WHERE channel IN (SELECT value FROM json_each(%(channels)s))
        AND channel NOT IN (SELECT channel FROM mailrail_pause)
        AND expires <= %(now)s AND (token IS NULL OR due <= %(now)s)
    LIMIT 1000)
RETURNING {COLUMNS}
"""

ANY_EXPIRED = """
SELECT 1 FROM mailrail_message
WHERE channel IN (SELECT value FROM json_each(%(channels)s))
    AND channel NOT IN (SELECT channel FROM mailrail_pause)
    AND expires <= %(now)s AND (token IS NULL OR due <= %(now)s)
LIMIT 1
"""

# The claims still held by who says so. The token alone decides.
_HELD = """
(id, token) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(%(claims)s))
"""

HELD = f"SELECT id, token FROM mailrail_message WHERE {_HELD}"

FINISH = f"DELETE FROM mailrail_message WHERE {_HELD} RETURNING id, token, channel, lane"

RENEW = f"""
UPDATE mailrail_message SET due = %(now)s + (SELECT value FROM json_each(%(leases)s) WHERE key = channel)
WHERE {_HELD}
"""

GIVE_BACK = f"""
UPDATE mailrail_message SET
    due = %(now)s + %(delay)s, attempt = attempt + %(attempts)s, alone = alone OR %(alone)s, worker = NULL,
    token = NULL, error = COALESCE(%(error)s, error)
WHERE {_HELD}
"""

# The row moves as it is, unread: what is broken in it can still be looked at.
BURY = f"""
INSERT OR REPLACE INTO mailrail_dead ({DEAD_COLUMNS}, error, error_class, buried_at)
SELECT {DEAD_COLUMNS}, %(error)s, %(error_class)s, %(now)s FROM mailrail_message WHERE {_HELD}
"""

DEAD = f"""
SELECT {DEAD_COLUMNS}, NULL, NULL, error, buried_at FROM mailrail_dead
WHERE channel = %(channel)s AND (buried_at, id) < (%(before_at)s, %(before_id)s)
ORDER BY buried_at DESC, id DESC LIMIT %(limit)s
"""

REQUEUE = f"""
INSERT INTO mailrail_message ({DEAD_COLUMNS}, unique_key, held, worker, token)
SELECT
    id, channel, content, headers, v, lane,
    CASE WHEN lane IS NOT NULL THEN
        1 + COALESCE((SELECT MAX(lane_seq) FROM mailrail_message m WHERE m.channel = d.channel AND m.lane = d.lane), 0)
    END,
    0, MIN(losses, 1), alone, max_attempts, priority, %(now)s, NULL, sent_at, key,
    NULL, EXISTS (SELECT 1 FROM mailrail_message m WHERE m.channel = d.channel AND m.lane = d.lane), NULL, NULL
FROM mailrail_dead d WHERE id = %(id)s AND channel = %(channel)s
ON CONFLICT (id) DO NOTHING
"""

DISCARD = """
DELETE FROM mailrail_dead
WHERE channel = %(channel)s AND id IN (SELECT value FROM json_each(%(ids)s)) RETURNING id
"""

CANCEL = """
DELETE FROM mailrail_message
WHERE channel = %(channel)s AND token IS NULL AND id IN (SELECT value FROM json_each(%(ids)s))
RETURNING id, channel, lane
"""

# After something left these lanes: their lowest place becomes claimable.
ADVANCE_LANES = """
UPDATE mailrail_message SET held = 0
WHERE held = 1 AND id IN (
    SELECT (
        SELECT id FROM mailrail_message m
        WHERE m.channel = json_extract(value, '$[0]') AND m.lane = json_extract(value, '$[1]')
        ORDER BY lane_seq LIMIT 1)
    FROM json_each(%(lanes)s))
"""

WAITING = f"""
SELECT {COLUMNS} FROM mailrail_message
WHERE channel = %(channel)s AND token IS NULL ORDER BY due, id LIMIT %(limit)s
"""

KNOWN = """
SELECT id FROM mailrail_message
WHERE id IN (SELECT value FROM json_each(%(ids)s)) AND channel = %(channel)s
UNION ALL
SELECT id FROM mailrail_dead
WHERE id IN (SELECT value FROM json_each(%(ids)s)) AND channel = %(channel)s
"""

PAUSE = "INSERT OR IGNORE INTO mailrail_pause (channel, since) VALUES (%(channel)s, %(now)s)"

BUCKET = "SELECT tokens, filled_at FROM mailrail_bucket WHERE name = %(name)s"
FILL_BUCKET = """
INSERT INTO mailrail_bucket (name, tokens, filled_at) VALUES (%(name)s, %(tokens)s, %(now)s)
ON CONFLICT (name) DO UPDATE SET tokens = excluded.tokens, filled_at = excluded.filled_at
"""

HEARTBEAT = """
INSERT INTO mailrail_worker (id, details, seen) VALUES (%(id)s, %(details)s, %(now)s)
ON CONFLICT (id) DO UPDATE SET details = excluded.details, seen = excluded.seen
"""
GOODBYE = "DELETE FROM mailrail_worker WHERE id = %(id)s OR seen < %(forgotten)s"
WORKERS = "SELECT id, details, %(now)s - seen FROM mailrail_worker WHERE seen >= %(forgotten)s ORDER BY id"

STATS = """
SELECT
    channel,
    SUM(due <= %(now)s), -- waiting for a worker, a lapsed lease among them
    SUM(due > %(now)s AND token IS NULL),
    SUM(due > %(now)s AND token IS NOT NULL),
    %(now)s - MIN(due)
FROM mailrail_message GROUP BY channel
"""
