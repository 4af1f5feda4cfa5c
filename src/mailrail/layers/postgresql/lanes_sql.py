"""Letting the messages of a lane through one by one."""

from __future__ import annotations

from .sql import GIVEN, IS_GIVEN

# Held until the sender's transaction ends, so places in a lane are taken in the order of commits. Only senders take it:
# a long transaction that sends never holds up a worker.
LOCK_LANE = "SELECT pg_advisory_xact_lock(%(lane)s)"

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

# After something left these lanes, from the place `gone` on: their lowest place becomes claimable. Has to be a
# statement of its own, after the removal: its snapshot shows what was parked until then. A lowest place behind `gone`
# is locked against removal until the transaction commits. Otherwise a transaction that removes it at that moment would
# still see `gone` ahead of it. Then neither transaction would free the next place. The first column says how many of
# them were removed while this statement waited; if any were, it is run once more. The second says whether the snapshot
# is that of the transaction's beginning.
ADVANCE_LANES = """
WITH heads AS MATERIALIZED (
    SELECT head.id, head.held
    FROM unnest(%(channels)s::text[], %(lanes)s::text[], %(gone)s::bigint[]) AS lane (channel, name, gone)
    CROSS JOIN LATERAL (
        SELECT id, held, lane_seq FROM mailrail_message h WHERE h.channel = lane.channel AND h.lane = lane.name
        ORDER BY lane_seq LIMIT 1) AS head
    WHERE head.held = 1 OR head.lane_seq > lane.gone),
kept AS MATERIALIZED (
    SELECT m.id FROM mailrail_message m
    WHERE m.id = ANY (ARRAY (SELECT id FROM heads WHERE held = 0))
        AND m.held < 1 -- = 0 would be true of all rows of an index that is not that of ids
    FOR KEY SHARE),
free AS (
    UPDATE mailrail_message m SET held = 0
    WHERE m.id = ANY (ARRAY (SELECT id FROM heads WHERE held = 1)) RETURNING m.id, m.channel),
told AS (SELECT pg_notify('mailrail', channel) FROM (SELECT DISTINCT channel FROM free) AS channels)
SELECT (SELECT count(*) FROM heads) - (SELECT count(*) FROM kept) - (SELECT count(*) FROM free)
    + 0 * (SELECT count(*) FROM told), current_setting('transaction_isolation') <> 'read committed'
"""

# ADVANCE_LANES follows in the same transaction.
FINISH_IN_LANES = f"""
WITH {GIVEN}
DELETE FROM mailrail_message m WHERE {IS_GIVEN}
RETURNING m.id, m.token, m.channel, m.lane, m.lane_seq
"""
