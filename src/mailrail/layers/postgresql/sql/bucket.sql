-- Read a token bucket and lock it, so that takers wait for each other. The clock is read after the lock was had.
\set name partner-api
SELECT tokens, date_part('epoch', clock_timestamp()) - filled_at FROM (
    SELECT tokens, filled_at FROM mailrail_bucket WHERE name = :'name' FOR UPDATE) AS bucket;
