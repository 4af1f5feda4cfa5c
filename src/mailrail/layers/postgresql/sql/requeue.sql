-- Store a dead message again, at the end of its lane.
\set id 0190a0b0-c0d0-7000-8000-000000000001
\set channel noop
WITH back AS (
    INSERT INTO mailrail_message
        (id, channel, content, headers, v, lane, places, lane_seq, attempt, losses, alone, max_attempts, priority,
         due, expires, sent_at, key)
    SELECT id, channel, content, headers, v, lane, places,
        CASE WHEN lane IS NOT NULL AND places IS NULL THEN nextval('mailrail_lane_seq') END, 0,
        LEAST(losses, 1), alone, max_attempts, priority, date_part('epoch', clock_timestamp()), NULL, sent_at, key
    FROM mailrail_dead WHERE id = :'id' AND channel = :'channel'
    ON CONFLICT (id) DO NOTHING
    RETURNING channel)
SELECT pg_notify('mailrail', channel) FROM back;
