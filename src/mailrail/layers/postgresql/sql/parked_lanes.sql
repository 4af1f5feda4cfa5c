-- Return up to 1,000 lanes with parked messages, in order behind the given one, and of each whether a place is free.
-- Found by jumping through the index from one lane to the next, never by reading what waits in them.
\set channel ''
\set lane ''
WITH RECURSIVE parked (channel, lane, n) AS (
    (
        SELECT channel, lane, 1 FROM mailrail_message m
        WHERE (m.channel, m.lane) > (:'channel'::text, :'lane'::text) AND m.held = 1 AND m.places IS NOT NULL
        ORDER BY m.channel, m.lane, m.priority DESC, m.due, m.id LIMIT 1)
    UNION ALL
    SELECT next.channel, next.lane, n + 1 FROM parked CROSS JOIN LATERAL (
        SELECT channel, lane FROM mailrail_message m
        WHERE (m.channel, m.lane) > (parked.channel, parked.lane) AND m.held = 1 AND m.places IS NOT NULL
        ORDER BY m.channel, m.lane, m.priority DESC, m.due, m.id LIMIT 1) AS next
    WHERE n < 1000)
SELECT channel, lane, (
    SELECT places FROM mailrail_message m
    WHERE m.channel = parked.channel AND m.lane = parked.lane AND m.held = 1 AND m.places IS NOT NULL
    ORDER BY m.priority DESC, m.due, m.id LIMIT 1) > (
    SELECT count(*) FROM mailrail_message m
    WHERE m.channel = parked.channel AND m.lane = parked.lane AND m.lane_seq = 0)
FROM parked;
