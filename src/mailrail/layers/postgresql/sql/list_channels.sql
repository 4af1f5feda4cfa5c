-- List the channels in use, found by jumping through the indexes from one to the next, and those that are paused.
WITH RECURSIVE
    open (channel) AS (
        (SELECT channel FROM mailrail_message WHERE held = 0 ORDER BY channel LIMIT 1)
        UNION ALL
        SELECT (
            SELECT m.channel FROM mailrail_message m WHERE m.channel > open.channel AND m.held = 0
            ORDER BY m.channel LIMIT 1)
        FROM open WHERE channel = channel || ''),
    buried (channel) AS (
        (SELECT channel FROM mailrail_dead ORDER BY channel LIMIT 1)
        UNION ALL
        SELECT (
            SELECT d.channel FROM mailrail_dead d WHERE d.channel > buried.channel ORDER BY d.channel LIMIT 1)
        FROM buried WHERE channel = channel || '')
SELECT channel FROM open WHERE channel IS NOT NULL
UNION SELECT channel FROM buried WHERE channel IS NOT NULL
UNION SELECT channel FROM mailrail_pause;
