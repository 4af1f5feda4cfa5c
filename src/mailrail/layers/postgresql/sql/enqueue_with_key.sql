-- Store a message with a key. DO NOTHING without a target gives way to one that waits under that key as well as to a
-- repeat of the id. A value that is named twice has to be of one type, where the server binds it.
\set id 0190a0b0-c0d0-7000-8000-000000000001
\set channel noop
\set content '{"n": 1}'
\set headers '{}'
\set v 1
\set lane customer-3
\set places 5
\set attempt 0
\set losses 0
\set alone f
\set max_attempts 5
\set priority 0
\set due 2000000000
\set delay 0
\set lifetime 3600
\set expires 2000000000
\set key report-7
WITH stored AS (
    INSERT INTO mailrail_message
        (id, channel, content, headers, v, lane, places, lane_seq, attempt, losses, alone, max_attempts, priority,
         due, expires, sent_at, key, unique_key)
    SELECT
        :'id', :'channel', :'content', :'headers', :'v', :'lane'::text, :'places'::int,
        CASE WHEN :'lane'::text IS NOT NULL AND :'places'::int IS NULL THEN nextval('mailrail_lane_seq') END,
        :'attempt', :'losses', :'alone', :'max_attempts', :'priority', COALESCE(:'due'::float8, now + :'delay'),
        COALESCE(now + :'lifetime'::float8, :'expires'::float8), now, :'key', :'key'
    FROM (SELECT date_part('epoch', clock_timestamp()) AS now) AS clock
    ON CONFLICT DO NOTHING
    RETURNING id, channel)
SELECT id, pg_notify('mailrail', channel) FROM stored;
