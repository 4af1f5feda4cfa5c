-- Store dead messages again, those of a lane at its end, in the order given. Of two who do so at once, the later one
-- waits for the locks, and finds them gone: else it would store once more what has run by then.
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
\set channel noop
WITH locked AS MATERIALIZED (
    SELECT * FROM mailrail_dead WHERE id = ANY (:'ids'::uuid[]) AND channel = :'channel' ORDER BY id FOR UPDATE),
ordered AS MATERIALIZED (
    SELECT locked.* FROM unnest(:'ids'::uuid[]) WITH ORDINALITY AS wanted (id, n) JOIN locked USING (id) ORDER BY n),
back AS (
    INSERT INTO mailrail_message
        (id, channel, content, headers, v, lane, places, lane_seq, attempt, losses, alone, max_attempts, priority,
         due, expires, sent_at, key)
    SELECT id, channel, content, headers, v, lane, places,
        CASE WHEN lane IS NOT NULL AND places IS NULL THEN nextval('mailrail_lane_seq') END, 0,
        LEAST(losses, 1), alone, max_attempts, priority, date_part('epoch', clock_timestamp()), NULL, sent_at, key
    FROM ordered
    ON CONFLICT (id) DO NOTHING
    RETURNING channel)
SELECT pg_notify('mailrail', channel) FROM back LIMIT 1;
