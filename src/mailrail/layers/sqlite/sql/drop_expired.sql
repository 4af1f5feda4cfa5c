-- Drop expired messages. Claimed ones are safe until their lease is over. 1,000 at a time, so that nobody waits long
-- for the lock.
.parameter set :channels '["noop","mail"]'
.parameter set :now 1800000000
DELETE FROM mailrail_message WHERE id IN (
    SELECT id FROM mailrail_message
    WHERE channel IN (SELECT value FROM json_each(:channels))
        AND channel NOT IN (SELECT channel FROM mailrail_pause)
        AND expires <= :now AND (token IS NULL OR due <= :now)
    LIMIT 1000)
RETURNING id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
    expires, sent_at, key, worker, token;
