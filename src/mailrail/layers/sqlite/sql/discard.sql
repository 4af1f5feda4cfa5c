-- Remove dead messages.
.parameter set :channel noop
.parameter set :ids '["0190a0b0c0d070008000000000000001"]'
DELETE FROM mailrail_dead
WHERE channel = :channel AND id IN (SELECT value FROM json_each(:ids)) RETURNING id;
