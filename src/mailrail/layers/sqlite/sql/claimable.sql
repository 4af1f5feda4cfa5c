-- Choose what may be claimed. At most `most` rows are read for each channel and priority; only those few are sorted.
-- `held = 0` is written exactly as in the partial index mailrail_ready, or SQLite would not use that. The priorities
-- in use are found by jumping through the index from one to the next, never by reading the backlog. The last but
-- one column is the lane of what has first to be given one of the lane's places (give_places.sql).
.parameter set :channels '["noop","mail"]'
.parameter set :now 1800000000
.parameter set :besides '[]'
.parameter set :most 8
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
SELECT m.id, m.channel, m.rowid, CASE WHEN m.lane_seq IS NULL AND m.places IS NOT NULL THEN m.lane END,
    :now - m.due
FROM level CROSS JOIN mailrail_message m -- CROSS JOIN fixes the order of the loops
WHERE m.id IN (
    SELECT id FROM mailrail_message
    WHERE channel = level.channel AND priority = level.priority AND held = 0 AND due <= :now
        AND (expires IS NULL OR expires > :now)
        AND id NOT IN (SELECT value FROM json_each(:besides))
    ORDER BY due, id LIMIT :most)
ORDER BY m.priority DESC, m.due, m.id;
