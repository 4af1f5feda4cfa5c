-- Get one message.
.parameter set :id 0190a0b0c0d070008000000000000001
.parameter set :channel noop
SELECT id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
    expires, sent_at, key, worker, token, error
FROM mailrail_message WHERE id = :id AND channel = :channel;
