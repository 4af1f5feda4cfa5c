-- Remove finished messages, of lanes too. advance_lanes.sql follows in the same transaction.
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
\set tokens '{42}'
WITH
    given (id, token) AS MATERIALIZED (SELECT * FROM unnest(:'ids'::uuid[], :'tokens'::bigint[]))
DELETE FROM mailrail_message m
WHERE m.id = ANY (:'ids'::uuid[]) AND ((m.id, m.token) IN (SELECT id, token FROM given)) IS TRUE
RETURNING m.id, m.token, m.channel, m.lane, m.lane_seq;
