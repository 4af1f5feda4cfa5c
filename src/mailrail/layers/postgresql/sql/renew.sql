-- Renew leases: `due` of a claimed message is the end of its lease.
-- It waits for nobody: what is locked is being settled just now, most likely by this worker's other connection.
-- Two statements that wait for each other's rows would be a deadlock.
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
\set tokens '{42}'
\set channels '{noop,mail}'
\set leases '{15,15}'
WITH
    clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now),
    given (id, token) AS MATERIALIZED (SELECT * FROM unnest(:'ids'::uuid[], :'tokens'::bigint[])),
    leases (channel, lease) AS MATERIALIZED (SELECT * FROM unnest(:'channels'::text[], :'leases'::float8[])),
    held AS MATERIALIZED (
        SELECT m.id FROM mailrail_message m
        WHERE m.id = ANY (:'ids'::uuid[]) AND ((m.id, m.token) IN (SELECT id, token FROM given)) IS TRUE
        FOR NO KEY UPDATE SKIP LOCKED),
    pushed AS (
        UPDATE mailrail_message m SET
            due = (SELECT now FROM clock) + (SELECT lease FROM leases WHERE leases.channel = m.channel)
        -- By ids alone: joined with `held`, whose rows the planner underrates, all ids were looked for once a row.
        WHERE m.id = ANY (ARRAY (SELECT id FROM held)))
SELECT id, token FROM given
WHERE ((id, token) IN (
    SELECT id, token FROM mailrail_message m
    WHERE m.id = ANY (:'ids'::uuid[]) AND ((m.id, m.token) IN (SELECT id, token FROM given)) IS TRUE
)) IS NOT TRUE;
