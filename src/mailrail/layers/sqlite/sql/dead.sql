-- Read dead messages, last buried first, from a place on.
.parameter set :channel noop
.parameter set :before_at 2000000000
.parameter set :before_id 0190a0b0c0d070008000000000000001
.parameter set :limit 100
SELECT id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
    expires, sent_at, key, NULL, NULL, error, buried_at
FROM mailrail_dead
WHERE channel = :channel AND (buried_at, id) < (:before_at, :before_id)
ORDER BY buried_at DESC, id DESC LIMIT :limit;
