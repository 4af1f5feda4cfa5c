-- Say that a worker lives.
\set id 0190a0b0-c0d0-7000-8000-000000000001
\set details '{}'
INSERT INTO mailrail_worker (id, details, seen) VALUES (:'id', :'details', date_part('epoch', clock_timestamp()))
ON CONFLICT (id) DO UPDATE SET details = excluded.details, seen = excluded.seen;
