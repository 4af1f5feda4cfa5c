-- Drop expired messages, 1,000 of a channel at a time. The next one of a lane has to be let go in the same
-- transaction, so this is not part of the statement that claims.
\set channels '{noop,mail}'
WITH clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now)
DELETE FROM mailrail_message WHERE id = ANY (ARRAY (
    SELECT old.id FROM unnest(:'channels'::text[]) AS wanted (channel) CROSS JOIN LATERAL (
        SELECT id FROM mailrail_message m
        WHERE m.channel = wanted.channel AND m.expires <= (SELECT now FROM clock)
            AND (m.token IS NULL OR m.due <= (SELECT now FROM clock))
        ORDER BY m.expires LIMIT 1000 FOR UPDATE SKIP LOCKED) AS old
    WHERE NOT EXISTS (SELECT FROM mailrail_pause p WHERE p.channel = wanted.channel)))
RETURNING id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
    expires, sent_at, key, worker, token;
