-- Say when the next message of these channels is due: look at the head of each level.
.parameter set :channels '["noop","mail"]'
WITH RECURSIVE
    open (channel) AS (
        SELECT value FROM json_each(:channels)
        WHERE value NOT IN (SELECT channel FROM mailrail_pause)
    ),
    level (channel, priority) AS (
        SELECT channel, (
            SELECT MAX(priority) FROM mailrail_message m WHERE m.channel = open.channel AND held = 0)
        FROM open
        UNION ALL
        SELECT channel, (
            SELECT MAX(priority) FROM mailrail_message m
            WHERE m.channel = level.channel AND m.priority < level.priority AND held = 0)
        FROM level WHERE priority IS NOT NULL
    )
SELECT MIN((
    SELECT due FROM mailrail_message m
    WHERE m.channel = level.channel AND m.priority = level.priority AND held = 0 ORDER BY due LIMIT 1))
FROM level WHERE priority IS NOT NULL;
