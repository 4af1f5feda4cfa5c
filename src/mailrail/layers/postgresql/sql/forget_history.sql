-- Forget what has ended more than so many seconds ago.
\set seconds 1209600
WITH clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now)
DELETE FROM mailrail_history WHERE ctid = ANY (ARRAY (
    SELECT ctid FROM mailrail_history
    WHERE span = 60 AND start < (SELECT (now - :'seconds')::bigint - 60 FROM clock)
        OR span = 3600 AND start < (SELECT (now - :'seconds')::bigint - 3600 FROM clock)
    FOR UPDATE SKIP LOCKED));
