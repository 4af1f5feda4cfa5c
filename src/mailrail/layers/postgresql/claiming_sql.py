"""Choosing what to claim, and leasing it."""

from __future__ import annotations

from ..database_sql import COLUMNS
from .sql import CLOCK, GIVEN, IS_GIVEN, LEVELS, NOW, OF_M, not_among, shortened

_OPEN = """
    open (channel, room, lease) AS MATERIALIZED (
        SELECT *
        FROM unnest(%(channels)s::text[], %(rooms)s::int[], %(leases)s::float8[]) AS wanted (channel, room, lease)
        WHERE NOT EXISTS (SELECT FROM mailrail_pause p WHERE p.channel = wanted.channel))
"""

# `LEVELS`, as known from the claim before: see `Frontier`.
_KNOWN_LEVELS = """
    level (channel, priority, floor) AS (
        SELECT * FROM unnest(%(known_channels)s::text[], %(known_priorities)s::smallint[], %(floors)s::float8[]))
"""

# Which messages may be claimed, of a channel and priority, oldest first. Expired ones are left to DROP_EXPIRED.
_FIRST = """
    FROM mailrail_message m
    WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0
        AND m.due <= (SELECT now FROM clock) AND m.due >= level.floor
        AND (m.expires IS NULL OR m.expires > (SELECT now FROM clock))
        AND m.id <> ALL (%(besides)s::uuid[])
    ORDER BY m.due, m.id
"""

# Of a single channel: up to `room` are locked of each priority, and the best of them leased.
_ROOM_OF_ALL = """
    share (channel, priority, floor, n) AS (
        SELECT channel, priority, floor, room FROM level JOIN open USING (channel))
"""

# Of many channels that would be far too many. A look without locks says how many of the best are of each channel and
# priority; no more than those are locked. Where others have locked them meanwhile, the next ones of the same are.
_ROOM_OF_BEST = f"""
    seen AS MATERIALIZED (
        SELECT channel, priority, floor, id, due, room,
            row_number() OVER (PARTITION BY channel ORDER BY priority DESC, due, id) AS nth
        FROM level JOIN open USING (channel) CROSS JOIN LATERAL (SELECT id, due {_FIRST} LIMIT open.room) AS first),
    share (channel, priority, floor, n) AS (
        SELECT channel, priority, floor, count(*) FROM (
            SELECT * FROM seen WHERE nth <= room ORDER BY priority DESC, due, id LIMIT %(total)s) AS best
        GROUP BY channel, priority, floor)
"""

# Settle, choose and lease, in one round trip.
_CLAIM = f"""
WITH RECURSIVE
    {CLOCK},
    {_OPEN},
    {{levels}},
    {{shares}},
    {GIVEN},
    -- The token alone decides. Those of lanes are left to FINISH_IN_LANES.
    finished AS (
        DELETE FROM mailrail_message m WHERE {IS_GIVEN} AND m.lane IS NULL RETURNING m.id, m.token),
    found AS MATERIALIZED (
        SELECT first.*, open.channel, open.room, open.lease,
            first.lane IS NOT NULL AND EXISTS (
                SELECT FROM mailrail_message ahead
                WHERE ahead.channel = open.channel AND ahead.lane = first.lane AND ahead.lane_seq < first.lane_seq
            ) AS blocked
        FROM share AS level JOIN open USING (channel) CROSS JOIN LATERAL (
            SELECT id, lane, lane_seq, priority, due {_FIRST} LIMIT level.n
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
        RETURNING chosen.place, chosen.was_due, {OF_M}),
    news AS (
        SELECT json_build_object(
            'lost', (SELECT json_agg(json_build_array(id, token)) {not_among("finished")}),
            'blocked', (SELECT jsonb_agg(DISTINCT jsonb_build_array(channel, lane)) FROM found WHERE blocked),
            'overdue', (
                SELECT json_agg(channel) FROM open WHERE EXISTS (
                    SELECT FROM mailrail_message m
                    WHERE m.channel = open.channel AND m.expires <= (SELECT now FROM clock)
                        -- claimed ones are safe until their lease is over
                        AND (m.token IS NULL OR m.due <= (SELECT now FROM clock)))),
            'passed_over', {{passed_over}})::text AS text)
SELECT NULL AS news, place, was_due, {COLUMNS} FROM leased
UNION ALL
SELECT text, 0, NULL, NULL, '', '', '', 0, NULL, NULL, 0, 0, FALSE, NULL, 0, 0, NULL, 0, NULL, NULL, NULL FROM news
"""
_OF_ONE = {"shares": _ROOM_OF_ALL, "passed_over": "FALSE"}
_OF_MANY = {
    "shares": _ROOM_OF_BEST,
    "passed_over": "EXISTS (SELECT FROM seen) AND NOT EXISTS (SELECT FROM found)",
}
CLAIM = shortened(_CLAIM.format(levels=LEVELS, **_OF_ONE))
CLAIM_OF_MANY = shortened(_CLAIM.format(levels=LEVELS, **_OF_MANY))
CLAIM_ON = shortened(_CLAIM.format(levels=_KNOWN_LEVELS, **_OF_ONE))
CLAIM_OF_MANY_ON = shortened(_CLAIM.format(levels=_KNOWN_LEVELS, **_OF_MANY))

# When the next thing is due on these channels: the head of each level.
NEXT_DUE = f"""
WITH RECURSIVE
    open (channel) AS MATERIALIZED (
        SELECT channel FROM unnest(%(channels)s::text[]) AS wanted (channel)
        WHERE NOT EXISTS (SELECT FROM mailrail_pause p WHERE p.channel = wanted.channel)),
    {LEVELS}
SELECT MIN((
    SELECT due FROM mailrail_message m
    WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0
    ORDER BY due LIMIT 1)) - {NOW}
FROM level WHERE priority IS NOT NULL
"""

# What a claim has leased whose answer never came, under a new token and with a whole lease. What is leased is due
# within the lease from now: nothing else is read, but for what is scheduled for these seconds.
ADOPT = f"""
WITH RECURSIVE
    {CLOCK},
    open (channel, lease) AS MATERIALIZED (SELECT * FROM unnest(%(channels)s::text[], %(leases)s::float8[])),
    {LEVELS}
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
RETURNING {OF_M}
"""

# 1,000 of a channel at a time. The next one of a lane has to be let go in the same transaction, so not in the statement
# that claims.
DROP_EXPIRED = f"""
WITH {CLOCK}
DELETE FROM mailrail_message WHERE id = ANY (ARRAY (
    SELECT old.id FROM unnest(%(channels)s::text[]) AS wanted (channel) CROSS JOIN LATERAL (
        SELECT id FROM mailrail_message m
        WHERE m.channel = wanted.channel AND m.expires <= (SELECT now FROM clock)
            AND (m.token IS NULL OR m.due <= (SELECT now FROM clock))
        LIMIT 1000 FOR UPDATE SKIP LOCKED) AS old
    WHERE NOT EXISTS (SELECT FROM mailrail_pause p WHERE p.channel = wanted.channel)))
RETURNING {COLUMNS}
"""
