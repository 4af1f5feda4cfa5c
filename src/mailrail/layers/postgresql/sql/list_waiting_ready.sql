-- Written by scripts/sql_variants.py from list_waiting.sql: edit that.
-- List what is ready, from a place on: from each channel and priority in use no more than the page shows.
-- Both ends of the range are named apart from the order within one moment: the index begins and ends there. Contents
-- are read of the page only.
\set channels '{noop,mail}'
\set after_at 0
\set after_id 00000000-0000-0000-0000-000000000000
\set most 100
\set limit 100
\set preview 500
\set error_length 2000
WITH RECURSIVE
    clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now),
    open (channel) AS (SELECT * FROM unnest(:'channels'::text[])),
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
        FROM level WHERE priority = priority + 0),
page AS MATERIALIZED (
    SELECT id, due FROM (
        SELECT m.* FROM level CROSS JOIN LATERAL (
            SELECT m.id, m.due, m.token FROM mailrail_message m
            WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0
                AND m.due >= :'after_at' AND (m.due, m.id) > (:'after_at', :'after_id'::uuid)
                AND m.due <= (SELECT now FROM clock)
            ORDER BY m.due, m.id LIMIT :'most') AS m
        UNION ALL
        SELECT m.* FROM open CROSS JOIN LATERAL ( -- behind others of their lane
            SELECT m.id, m.due, m.token FROM mailrail_message m
            WHERE m.channel = open.channel AND m.held = 1
                AND m.due >= :'after_at' AND (m.due, m.id) > (:'after_at', :'after_id'::uuid)
                AND m.due <= (SELECT now FROM clock)
            ORDER BY m.due, m.id LIMIT :'limit') AS m
    ) AS found
    ORDER BY due, id LIMIT :'limit')
SELECT id, channel, due,
    CASE WHEN due <= (SELECT now FROM clock) THEN 'ready' WHEN token IS NULL THEN 'scheduled' ELSE 'claimed' END,
    left(content, :'preview'), attempt, losses, priority, lane, key, worker,
    right(error, :'error_length')
FROM mailrail_message WHERE id = ANY (ARRAY (SELECT id FROM page))
ORDER BY due, id;
