-- Say when the next message of these channels is due: look at the head of each level.
\set channels '{noop,mail}'
WITH RECURSIVE
    open (channel) AS MATERIALIZED (
        SELECT channel FROM unnest(:'channels'::text[]) AS wanted (channel)
        WHERE NOT EXISTS (SELECT FROM mailrail_pause p WHERE p.channel = wanted.channel)),
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
SELECT MIN((
    SELECT due FROM mailrail_message m
    WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0
    ORDER BY due LIMIT 1)) - date_part('epoch', clock_timestamp())
FROM level WHERE priority IS NOT NULL;
