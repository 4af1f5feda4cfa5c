-- Reschedule claims, for a retry or released. Returns those that were lost, then lanes where places are free. A join,
-- as the token that was is only in the claims: not by a hash, which is slow for hundreds, and they are seldom. With a
-- lane, they are of that lane from now on.
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
\set tokens '{42}'
\set delay 0
\set attempts 0
\set alone f
\set error 'ValueError: no'
\set lane tenant-3
\set places 5
WITH
    clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now),
    given (id, token) AS MATERIALIZED (SELECT * FROM unnest(:'ids'::uuid[], :'tokens'::bigint[])),
    back AS (
        UPDATE mailrail_message m SET
            due = (SELECT now FROM clock) + :'delay', attempt = m.attempt + :'attempts', alone = m.alone OR :'alone',
            worker = NULL, token = NULL, error = COALESCE(:'error', m.error),
            lane = COALESCE(:'lane'::text, m.lane), places = COALESCE(:'places'::int, m.places),
            -- gives its place up, if its lane has several
            lane_seq = CASE WHEN COALESCE(:'places'::int, m.places) IS NULL THEN m.lane_seq END
        FROM given WHERE m.id = ANY (:'ids'::uuid[]) AND m.id = given.id AND m.token = given.token
        RETURNING m.id, given.token, m.channel, m.lane, m.places),
    told AS (SELECT pg_notify('mailrail', channel) FROM (SELECT DISTINCT channel FROM back) AS channels)
SELECT id, token, NULL::text, NULL::text FROM given WHERE ((id, token) IN (SELECT id, token FROM back)) IS NOT TRUE
    AND (SELECT count(*) FROM told) >= 0 -- or the notification, which nobody reads, is left out
UNION ALL
SELECT NULL, NULL, channel, lane FROM back WHERE places IS NOT NULL;
