-- Written by scripts/sql_variants.py from list_waiting.sql: edit that.
-- List what is claimed, from a place on: from each channel and priority in use no more than the page shows.
-- Beside that, as many that are behind others of their lane.
.parameter set :channels '["noop","mail"]'
.parameter set :after_at 0
.parameter set :after_id '""'
.parameter set :limit 100
.parameter set :now 1800000000
.parameter set :preview 500
.parameter set :error_length 2000
WITH RECURSIVE
    open (channel) AS (SELECT value FROM json_each(:channels)),
    level (channel, priority) AS (
        SELECT channel, (
            SELECT MAX(priority) FROM mailrail_message m WHERE m.channel = open.channel AND held = 0)
        FROM open
        UNION ALL
        SELECT channel, (
            SELECT MAX(priority) FROM mailrail_message m
            WHERE m.channel = level.channel AND m.priority < level.priority AND held = 0)
        FROM level WHERE priority IS NOT NULL
    ),
    page (id) AS (
        SELECT m.id FROM level CROSS JOIN mailrail_message m
        WHERE m.id IN (
            SELECT id FROM mailrail_message
            WHERE channel = level.channel AND priority = level.priority AND held = 0
                AND due >= :after_at AND (due, id) > (:after_at, :after_id)
                AND due > :now AND token IS NOT NULL
            ORDER BY due, id LIMIT :limit)
        UNION ALL
        SELECT m.id FROM open CROSS JOIN mailrail_message m
        WHERE m.id IN (
            SELECT id FROM mailrail_message
            WHERE channel = open.channel AND held = 1
                AND due >= :after_at AND (due, id) > (:after_at, :after_id)
                AND due > :now AND token IS NOT NULL
            ORDER BY due, id LIMIT :limit)
    )
SELECT id, channel, due,
    CASE WHEN due <= :now THEN 'ready' WHEN token IS NULL THEN 'scheduled' ELSE 'claimed' END,
    substr(content, 1, :preview), attempt, losses, priority, lane, key, worker,
    substr(error, -:error_length)
FROM mailrail_message WHERE id IN (SELECT id FROM page)
ORDER BY due, id LIMIT :limit;
