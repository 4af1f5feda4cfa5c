-- Read what waits, per level, as claims read it, and beside that what is held in lanes.
\set channel noop
\set limit 100
WITH RECURSIVE
    open (channel) AS (SELECT :'channel'::text),
    level (channel, priority, min_due) AS (
        SELECT channel, (
            SELECT priority FROM mailrail_message m WHERE m.channel = open.channel AND m.held = 0
            ORDER BY priority DESC LIMIT 1), '-infinity'::float8
        FROM open
        UNION ALL
        SELECT channel, (
            SELECT priority FROM mailrail_message m
            WHERE m.channel = level.channel AND m.priority < level.priority AND m.held = 0
            ORDER BY priority DESC LIMIT 1), '-infinity'::float8
        FROM level WHERE priority = priority + 0)
SELECT id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
    expires, sent_at, key, worker, token
FROM (
    SELECT m.* FROM level CROSS JOIN LATERAL (
        SELECT id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority,
            due, expires, sent_at, key, worker, token
        FROM mailrail_message m
        WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0 AND m.token IS NULL
        ORDER BY m.due, m.id LIMIT :'limit') AS m
    UNION ALL
    (SELECT id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority,
        due, expires, sent_at, key, worker, token
     FROM mailrail_message m
     WHERE m.channel = :'channel' AND m.held = 1 AND m.token IS NULL ORDER BY m.due, m.id LIMIT :'limit')
) AS waiting
ORDER BY due, id LIMIT :'limit';
