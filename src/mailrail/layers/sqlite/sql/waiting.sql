-- Read what waits.
.parameter set :channel noop
.parameter set :limit 100
SELECT id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
    expires, sent_at, key, worker, token
FROM mailrail_message
WHERE channel = :channel AND token IS NULL ORDER BY due, id LIMIT :limit;
