-- Remove messages that nobody has claimed.
.parameter set :channel noop
.parameter set :ids '["0190a0b0c0d070008000000000000001"]'
DELETE FROM mailrail_message
WHERE channel = :channel AND token IS NULL AND id IN (SELECT value FROM json_each(:ids))
RETURNING id, channel, lane, lane_seq;
