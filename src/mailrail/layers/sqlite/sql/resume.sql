-- Resume a channel.
.parameter set :channel noop
DELETE FROM mailrail_pause WHERE channel = :channel;
