-- Pause a channel.
.parameter set :channel noop
.parameter set :now 1800000000
INSERT OR IGNORE INTO mailrail_pause (channel, since) VALUES (:channel, :now);
