-- Pause a channel.
\set channel noop
INSERT INTO mailrail_pause (channel, since) VALUES (:'channel', date_part('epoch', clock_timestamp()))
ON CONFLICT (channel) DO NOTHING;
