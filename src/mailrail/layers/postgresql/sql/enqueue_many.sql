-- Store many messages, none of them with a key. Those of a lane take its next places in the order given. The lane's
-- lock is held, and INSERT takes the rows in the order of the sorted subquery.
\set id '{0190a0b0-c0d0-7000-8000-000000000001}'
\set channel '{noop}'
\set content '{"{}"}'
\set headers '{"{}"}'
\set v '{1}'
\set lane '{NULL}'
\set places '{NULL}'
\set attempt '{0}'
\set losses '{0}'
\set alone '{f}'
\set max_attempts '{NULL}'
\set priority '{0}'
\set due '{NULL}'
\set delay '{0}'
\set expires '{NULL}'
\set lifetime '{NULL}'
WITH stored AS (
    INSERT INTO mailrail_message
        (id, channel, content, headers, v, lane, places, lane_seq, attempt, losses, alone, max_attempts, priority,
         due, expires, sent_at)
    SELECT
        id, channel, content, headers, v, lane, places,
        CASE WHEN lane IS NOT NULL AND places IS NULL THEN nextval('mailrail_lane_seq') END, attempt, losses, alone,
        max_attempts, priority,
        -- one clock for each: the order of sending is the order of their dues
        COALESCE(due, date_part('epoch', clock_timestamp()) + delay),
        COALESCE(date_part('epoch', clock_timestamp()) + lifetime, expires),
        date_part('epoch', clock_timestamp())
    FROM (
        SELECT * FROM unnest(
            :'id'::uuid[], :'channel'::text[], :'content'::text[], :'headers'::text[], :'v'::smallint[],
            :'lane'::text[], :'places'::int[], :'attempt'::int[], :'losses'::int[], :'alone'::bool[],
            :'max_attempts'::int[], :'priority'::smallint[], :'due'::float8[], :'delay'::float8[],
            :'expires'::float8[], :'lifetime'::float8[])
        WITH ORDINALITY AS given (
            id, channel, content, headers, v, lane, places, attempt, losses, alone, max_attempts, priority, due,
            delay, expires, lifetime, place)
        ORDER BY place) AS sorted
    ON CONFLICT (id) DO NOTHING
    RETURNING channel)
SELECT pg_notify('mailrail', channel) FROM (SELECT DISTINCT channel FROM stored) AS channels;
