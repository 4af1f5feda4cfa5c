-- Give claims back, for a retry or released. A join, as the token that was is only in the claims: not by a hash,
-- which is slow for hundreds, and they are seldom.
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
\set tokens '{42}'
\set delay 0
\set attempts 0
\set alone f
\set error 'ValueError: no'
WITH
    clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now),
    given (id, token) AS MATERIALIZED (SELECT * FROM unnest(:'ids'::uuid[], :'tokens'::bigint[])),
    back AS (
        UPDATE mailrail_message m SET
            due = (SELECT now FROM clock) + :'delay', attempt = m.attempt + :'attempts', alone = m.alone OR :'alone',
            worker = NULL, token = NULL, error = COALESCE(:'error', m.error)
        FROM given WHERE m.id = ANY (:'ids'::uuid[]) AND m.id = given.id AND m.token = given.token
        RETURNING m.id, given.token, m.channel),
    told AS (SELECT pg_notify('mailrail', channel) FROM (SELECT DISTINCT channel FROM back) AS channels)
SELECT id, token FROM given WHERE ((id, token) IN (SELECT id, token FROM back)) IS NOT TRUE
    AND (SELECT count(*) FROM told) >= 0; -- or the notification, which nobody reads, is left out
