-- Store one message without key or lane: the common one. The notification is part of the statement: no second round
-- trip, and PostgreSQL sends equal ones of a transaction once. With VALUES and without WITH, planning it takes half
-- as long.
\set id 0190a0b0-c0d0-7000-8000-000000000001
\set channel noop
\set content '{"n": 1}'
\set headers '{}'
\set v 1
\set attempt 0
\set losses 0
\set alone f
\set max_attempts 5
\set priority 0
\set due 2000000000
\set delay 0
\set lifetime 3600
\set expires 2000000000
INSERT INTO mailrail_message
    (id, channel, content, headers, v, attempt, losses, alone, max_attempts, priority, due, expires, sent_at)
VALUES (
    :'id', :'channel', :'content', :'headers', :'v', :'attempt', :'losses', :'alone', :'max_attempts',
    :'priority', COALESCE(:'due'::float8, date_part('epoch', clock_timestamp()) + :'delay'),
    COALESCE(date_part('epoch', clock_timestamp()) + :'lifetime'::float8, :'expires'::float8),
    date_part('epoch', clock_timestamp()))
ON CONFLICT (id) DO NOTHING -- a repeat of an id is harmless
RETURNING pg_notify('mailrail', channel);
