-- Pause a channel. One that is paused stays paused since then; a new reason replaces who and why.
\set channel noop
\set paused_by alice
\set reason 'the mail server moves'
INSERT INTO mailrail_pause (channel, since, paused_by, reason)
VALUES (:'channel', date_part('epoch', clock_timestamp()), :'paused_by', :'reason')
ON CONFLICT (channel) DO UPDATE SET paused_by = excluded.paused_by, reason = excluded.reason
WHERE excluded.reason != '';
