-- Bury messages. The row moves as it is, unread: what is broken in it can still be looked at.
.parameter set :error 'ValueError: no'
.parameter set :error_class ValueError
.parameter set :now 1800000000
.parameter set :claims '[["0190a0b0c0d070008000000000000001", 42]]'
INSERT OR REPLACE INTO mailrail_dead (id, channel, content, headers, v, lane, lane_seq, places, attempt, losses, alone,
    max_attempts, priority, due, expires, sent_at, key, error, error_class, buried_at)
SELECT id, channel, content, headers, v, lane, lane_seq, places, attempt, losses, alone, max_attempts, priority, due,
    expires, sent_at, key, :error, :error_class, :now
FROM mailrail_message
WHERE (id, token) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:claims));
