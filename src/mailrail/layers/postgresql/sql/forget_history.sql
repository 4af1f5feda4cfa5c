-- Forget what has ended more than so many seconds ago.
\set seconds 1209600
DELETE FROM mailrail_history WHERE ctid = ANY (ARRAY (
    SELECT ctid FROM mailrail_history
    WHERE span IN (60, 3600) AND start < (date_part('epoch', clock_timestamp()) - :'seconds')::bigint - span
    FOR UPDATE SKIP LOCKED));
