-- Get dead messages, whole.
.parameter set :ids '["0190a0b0c0d070008000000000000001"]'
.parameter set :channel noop
SELECT id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
    expires, sent_at, key, NULL, NULL, error, buried_at
FROM mailrail_dead WHERE id IN (SELECT value FROM json_each(:ids)) AND channel = :channel;
