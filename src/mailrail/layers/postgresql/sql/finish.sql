-- Remove finished messages. Returns the claims that it did not find: lost, or of a lane.
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
\set tokens '{42}'
WITH
    given (id, token) AS MATERIALIZED (SELECT * FROM unnest(:'ids'::uuid[], :'tokens'::bigint[])),
    gone AS (
        DELETE FROM mailrail_message m
        WHERE m.id = ANY (:'ids'::uuid[]) AND ((m.id, m.token) IN (SELECT id, token FROM given)) IS TRUE
            AND m.lane IS NULL
        RETURNING m.id, m.token)
SELECT id, token FROM given WHERE ((id, token) IN (SELECT id, token FROM gone)) IS NOT TRUE;
