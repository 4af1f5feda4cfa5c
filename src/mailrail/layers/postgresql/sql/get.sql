-- Get messages, whole.
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
\set channel noop
SELECT id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
    expires, sent_at, key, worker, token, error
FROM mailrail_message WHERE id = ANY (:'ids'::uuid[]) AND channel = :'channel';
