-- List the channels in use, found by jumping through the indexes from one to the next, and those that are paused.
WITH RECURSIVE
    open (channel) AS (
        SELECT MIN(channel) FROM mailrail_message WHERE held = 0
        UNION ALL
        SELECT (SELECT MIN(channel) FROM mailrail_message m WHERE m.channel > open.channel AND held = 0)
        FROM open WHERE channel IS NOT NULL
    ),
    buried (channel) AS (
        SELECT MIN(channel) FROM mailrail_dead
        UNION ALL
        SELECT (SELECT MIN(channel) FROM mailrail_dead d WHERE d.channel > buried.channel)
        FROM buried WHERE channel IS NOT NULL
    )
SELECT channel FROM open WHERE channel IS NOT NULL
UNION SELECT channel FROM buried WHERE channel IS NOT NULL
UNION SELECT channel FROM mailrail_pause;
