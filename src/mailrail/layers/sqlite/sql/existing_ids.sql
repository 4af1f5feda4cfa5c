-- Return which of these ids exist: waiting, claimed or dead.
.parameter set :ids '["0190a0b0c0d070008000000000000001"]'
.parameter set :channel noop
SELECT id FROM mailrail_message
WHERE id IN (SELECT value FROM json_each(:ids)) AND channel = :channel
UNION ALL
SELECT id FROM mailrail_dead
WHERE id IN (SELECT value FROM json_each(:ids)) AND channel = :channel;
