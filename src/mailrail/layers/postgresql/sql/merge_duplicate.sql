-- Merge a message into the one that waits under its key. That one is locked until the sender's transaction ends: it
-- cannot run before the sender's change is visible. The lock is the weakest that keeps claims away, and the row is
-- updated only when it has to be. Otherwise a worker that frees the row in its lane would wait for the sender. Claimed
-- meanwhile, its unique_key is gone and nothing is found.
\set channel noop
\set key report-7
\set due 2000000000
\set delay 0
\set lifetime 3600
\set expires 2000000000
WITH clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now), waiting AS MATERIALIZED (
    SELECT id, channel FROM mailrail_message
    WHERE channel = :'channel' AND unique_key = :'key' FOR KEY SHARE),
given AS (
    SELECT COALESCE(:'due'::float8, now + :'delay') AS due,
        COALESCE(now + :'lifetime'::float8, :'expires'::float8) AS expires
    FROM clock),
changed AS (
    UPDATE mailrail_message m SET
        due = LEAST(m.due, given.due), -- the earlier of the two
        -- the later one; NULL, never, wins
        expires = CASE WHEN m.expires IS NOT NULL AND given.expires IS NOT NULL
            THEN GREATEST(m.expires, given.expires) END
    FROM given
    WHERE m.id = ANY (ARRAY (SELECT id FROM waiting))
        AND (given.due < m.due OR m.expires < COALESCE(given.expires, 'infinity')))
SELECT id, pg_notify('mailrail', channel) FROM waiting;
