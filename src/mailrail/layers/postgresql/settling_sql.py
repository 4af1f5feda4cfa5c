"""What becomes of claims."""

from __future__ import annotations

from ..database_sql import DEAD_COLUMNS
from .sql import CLOCK, GIVEN, IS_GIVEN, not_among

# Returns what it did not find: lost, or of a lane.
FINISH = f"""
WITH {GIVEN}, gone AS (
    DELETE FROM mailrail_message m WHERE {IS_GIVEN} AND m.lane IS NULL RETURNING m.id, m.token)
SELECT id, token {not_among("gone")}
"""

# Waits for nobody: what is locked is being settled just now, by the other connection of this worker most likely. Two
# statements that wait for each other's rows would be a deadlock.
RENEW = f"""
WITH {CLOCK}, {GIVEN}, held AS MATERIALIZED (
    SELECT m.id, m.channel FROM mailrail_message m WHERE {IS_GIVEN} FOR NO KEY UPDATE SKIP LOCKED),
pushed AS (
    UPDATE mailrail_message m SET due = (SELECT now FROM clock) + leases.lease
    FROM held JOIN unnest(%(channels)s::text[], %(leases)s::float8[]) AS leases (channel, lease) USING (channel)
    WHERE m.id = ANY (ARRAY (SELECT id FROM held)) AND m.id = held.id)
SELECT id, token {not_among(f"mailrail_message m WHERE {IS_GIVEN}")}
"""

# A join, as the token that was is only in the claims: not by a hash, which is slow for hundreds, and they are seldom.
GIVE_BACK = f"""
WITH {CLOCK}, {GIVEN}, back AS (
    UPDATE mailrail_message m SET
        due = (SELECT now FROM clock) + %(delay)s, attempt = m.attempt + %(attempts)s, alone = m.alone OR %(alone)s,
        worker = NULL, token = NULL, error = COALESCE(%(error)s, m.error)
    FROM given WHERE m.id = ANY (%(ids)s::uuid[]) AND m.id = given.id AND m.token = given.token
    RETURNING m.id, given.token, m.channel),
told AS (SELECT pg_notify('mailrail', channel) FROM (SELECT DISTINCT channel FROM back) AS channels)
SELECT id, token {not_among("back")}
    AND (SELECT count(*) FROM told) >= 0 -- or the notification, which nobody reads, is left out
"""

_DEAD_NAMES = DEAD_COLUMNS.split(", ")

BURY = f"""
WITH {CLOCK}, {GIVEN}, gone AS (
    DELETE FROM mailrail_message m WHERE {IS_GIVEN}
    RETURNING m.token, {", ".join(f"m.{name}" for name in _DEAD_NAMES)}),
kept AS (
    INSERT INTO mailrail_dead ({DEAD_COLUMNS}, error, error_class, buried_at)
    SELECT {DEAD_COLUMNS}, %(error)s, %(error_class)s, now FROM gone, clock
    ON CONFLICT (id) DO UPDATE SET -- the id was sent again after its first death
        {", ".join(f"{name} = excluded.{name}" for name in [*_DEAD_NAMES[1:], "error", "error_class", "buried_at"])})
SELECT id, token, channel, lane, lane_seq FROM gone -- ADVANCE_LANES follows in the same transaction
"""
