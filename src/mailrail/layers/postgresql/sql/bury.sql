-- Bury messages. advance_lanes.sql follows in the same transaction.
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
\set tokens '{42}'
\set error 'ValueError: no'
\set error_class ValueError
WITH
    clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now),
    given (id, token) AS MATERIALIZED (SELECT * FROM unnest(:'ids'::uuid[], :'tokens'::bigint[])),
    gone AS (
        DELETE FROM mailrail_message m
        WHERE m.id = ANY (:'ids'::uuid[]) AND ((m.id, m.token) IN (SELECT id, token FROM given)) IS TRUE
        RETURNING m.token, m.id, m.channel, m.content, m.headers, m.v, m.lane, m.lane_seq, m.places, m.attempt,
            m.losses, m.alone, m.max_attempts, m.priority, m.due, m.expires, m.sent_at, m.key),
    kept AS (
        INSERT INTO mailrail_dead (id, channel, content, headers, v, lane, lane_seq, places, attempt, losses, alone,
            max_attempts, priority, due, expires, sent_at, key, error, error_class, buried_at)
        SELECT id, channel, content, headers, v, lane, lane_seq, places, attempt, losses, alone,
            max_attempts, priority, due, expires, sent_at, key, :'error', :'error_class', now
        FROM gone, clock
        ON CONFLICT (id) DO UPDATE SET -- the id was sent again after its first death
            channel = excluded.channel, content = excluded.content, headers = excluded.headers, v = excluded.v,
            lane = excluded.lane, lane_seq = excluded.lane_seq, places = excluded.places, attempt = excluded.attempt,
            losses = excluded.losses, alone = excluded.alone, max_attempts = excluded.max_attempts,
            priority = excluded.priority, due = excluded.due, expires = excluded.expires,
            sent_at = excluded.sent_at, key = excluded.key,
            error = excluded.error, error_class = excluded.error_class, buried_at = excluded.buried_at)
SELECT id, token, channel, lane, lane_seq FROM gone;
