-- Add to the groups of what went wrong. In the order of the key, as in record.sql.
\set troubles '[{"kind": "channel", "name": "noop", "what": "ValueError", "count": 1, "buried": 0}]'
WITH clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now)
INSERT INTO mailrail_trouble AS kept (kind, name, what, count, buried, first_at, last_at)
SELECT kind, name, what, SUM(count), SUM(buried), (SELECT now FROM clock), (SELECT now FROM clock)
FROM json_to_recordset(:'troubles'::json) AS given (kind text, name text, what text, count int, buried int)
GROUP BY kind, name, what ORDER BY kind, name, what
ON CONFLICT (kind, name, what) DO UPDATE SET
    count = kept.count + excluded.count, buried = kept.buried + excluded.buried, last_at = excluded.last_at;
