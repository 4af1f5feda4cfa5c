-- Read dead messages, last buried first, from a place on.
\set channel noop
\set before_at 2000000000
\set before_id 0190a0b0-c0d0-7000-8000-000000000001
\set limit 100
SELECT id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
    expires, sent_at, key, NULL, NULL, error, buried_at
FROM mailrail_dead
WHERE channel = :'channel' AND buried_at <= :'before_at' AND (buried_at, id) < (:'before_at', :'before_id'::uuid)
ORDER BY buried_at DESC, id DESC LIMIT :'limit';
