-- Count the messages of each channel: exactly up to so many of a kind for each channel and priority. More are not
-- counted but estimated (estimates.sql).
\set most 100
WITH RECURSIVE
    clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now),
    open (channel) AS (
        (SELECT channel FROM mailrail_message WHERE held = 0 ORDER BY channel LIMIT 1)
        UNION ALL
        SELECT (
            SELECT m.channel FROM mailrail_message m WHERE m.channel > open.channel AND m.held = 0
            ORDER BY m.channel LIMIT 1)
        FROM open WHERE channel = channel || ''),
    held (channel) AS ( -- few channels have messages that wait for a place in their lane
        (SELECT channel FROM mailrail_message WHERE held = 1 ORDER BY channel LIMIT 1)
        UNION ALL
        SELECT (
            SELECT m.channel FROM mailrail_message m WHERE m.channel > held.channel AND m.held = 1
            ORDER BY m.channel LIMIT 1)
        FROM held WHERE channel = channel || ''),
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
    counted AS (
        SELECT level.channel, ready.n AS ready, ready.oldest, later.scheduled, later.claimed
        FROM level
        CROSS JOIN LATERAL (
            SELECT count(*) AS n, MIN(due) AS oldest FROM (
                SELECT due FROM mailrail_message m
                WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0
                    AND m.due <= (SELECT now FROM clock) ORDER BY m.due LIMIT :'most' + 1) AS few) AS ready
        CROSS JOIN LATERAL ( -- those claimed are due soon, so they come first
            SELECT
                count(*) FILTER (WHERE token IS NULL) AS scheduled,
                count(*) FILTER (WHERE token IS NOT NULL) AS claimed
            FROM (
                SELECT token FROM mailrail_message m
                WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0
                    AND m.due > (SELECT now FROM clock) ORDER BY m.due LIMIT :'most' + 1) AS few) AS later
        WHERE level.priority IS NOT NULL
        UNION ALL
        SELECT held.channel, behind.ready, behind.oldest, behind.scheduled, 0
        FROM held CROSS JOIN LATERAL (
            SELECT
                count(*) FILTER (WHERE due <= (SELECT now FROM clock)) AS ready,
                MIN(due) AS oldest,
                count(*) FILTER (WHERE due > (SELECT now FROM clock)) AS scheduled
            FROM (
                SELECT due FROM mailrail_message m WHERE m.channel = held.channel AND m.held = 1
                ORDER BY m.due LIMIT :'most' + 1) AS few) AS behind
        WHERE held.channel IS NOT NULL)
SELECT channel, SUM(ready)::int, SUM(scheduled)::int, SUM(claimed)::int,
    (SELECT now FROM clock) - MIN(oldest)
FROM counted GROUP BY channel;
