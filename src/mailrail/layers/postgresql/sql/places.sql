-- Give the free places of these lanes to what is due there: the highest priority first, then the oldest due. What gets
-- none is parked: out of the index that claims read, until somebody gives a place back. Who runs this holds the locks
-- of the lanes (lock_places.sql) since before its snapshot, so that it sees each place that is taken. Returns how many
-- messages it has moved, and the lanes where a place stays free as another transaction has locked what is parked.
\set channels '{noop,mail}'
\set lanes '{tenant-3,tenant-4}'
WITH
    clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now),
    lane (channel, name) AS MATERIALIZED (SELECT * FROM unnest(:'channels'::text[], :'lanes'::text[])),
    room (channel, name, free) AS MATERIALIZED (
        SELECT channel, name, GREATEST(0, COALESCE(
            (
                SELECT places FROM mailrail_message m
                WHERE m.channel = lane.channel AND m.lane = lane.name AND m.held = 1 AND m.places IS NOT NULL
                ORDER BY m.priority DESC, m.due, m.id LIMIT 1),
            (
                SELECT places FROM mailrail_message m
                WHERE m.channel = lane.channel AND m.lane = lane.name AND m.held = 0 AND m.places IS NOT NULL
                    AND m.lane_seq IS NULL AND m.due <= (SELECT now FROM clock)
                ORDER BY m.due, m.id LIMIT 1),
            0) - (
                SELECT count(*) FROM mailrail_message m
                WHERE m.channel = lane.channel AND m.lane = lane.name AND m.lane_seq = 0))
        FROM lane),
    parked AS MATERIALIZED (
        SELECT room.*, best.* FROM room CROSS JOIN LATERAL (
            SELECT id, priority, due FROM mailrail_message m
            WHERE m.channel = room.channel AND m.lane = room.name AND m.held = 1 AND m.places IS NOT NULL
            ORDER BY m.priority DESC, m.due, m.id LIMIT room.free FOR NO KEY UPDATE SKIP LOCKED) AS best),
    fresh AS MATERIALIZED ( -- not looked at yet
        SELECT room.*, oldest.* FROM room CROSS JOIN LATERAL (
            SELECT id, priority, due FROM mailrail_message m
            WHERE m.channel = room.channel AND m.lane = room.name AND m.held = 0 AND m.places IS NOT NULL
                AND m.lane_seq IS NULL AND m.due <= (SELECT now FROM clock)
            ORDER BY m.due, m.id LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED) AS oldest),
    next AS MATERIALIZED (
        SELECT id, channel, name FROM (
            SELECT id, channel, name, free,
                row_number() OVER (PARTITION BY channel, name ORDER BY priority DESC, due, id) AS nth
            FROM (SELECT * FROM parked UNION ALL SELECT * FROM fresh) AS waiting) AS ranked
        WHERE nth <= free),
    moved AS (
        UPDATE mailrail_message m SET
            held = CASE WHEN m.id = ANY (ARRAY (SELECT id FROM next)) THEN 0 ELSE 1 END,
            lane_seq = CASE WHEN m.id = ANY (ARRAY (SELECT id FROM next)) THEN 0 END
        WHERE m.id = ANY (ARRAY (SELECT id FROM next UNION SELECT id FROM fresh)) RETURNING m.channel, m.held),
    told AS (SELECT pg_notify('mailrail', channel) FROM (SELECT DISTINCT channel FROM moved WHERE held = 0) AS names),
    passed_over AS (
        SELECT channel, name FROM room
        WHERE free > (SELECT count(*) FROM next WHERE next.channel = room.channel AND next.name = room.name)
            AND (SELECT count(*) FROM parked WHERE parked.channel = room.channel AND parked.name = room.name) < (
                SELECT count(*) FROM (
                    SELECT FROM mailrail_message m
                    WHERE m.channel = room.channel AND m.lane = room.name AND m.held = 1 AND m.places IS NOT NULL
                    ORDER BY m.priority DESC, m.due, m.id LIMIT room.free) AS waiting))
SELECT
    (SELECT count(*) FROM moved) + 0 * (SELECT count(*) FROM told),
    (SELECT array_agg(ARRAY[channel, name]) FROM passed_over);
