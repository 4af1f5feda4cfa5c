-- Lease messages. The lease per channel comes as JSON, too. A token that is still there means: the last lease lapsed
-- unsettled.
.parameter set :now 1800000000
.parameter set :leases '{"noop": 15, "mail": 15}'
.parameter set :worker host-1
.parameter set :token 42
.parameter set :ids '["0190a0b0c0d070008000000000000001"]'
UPDATE mailrail_message SET
    due = :now + (SELECT value FROM json_each(:leases) WHERE key = channel),
    worker = :worker,
    token = :token,
    attempt = attempt + (token IS NULL),
    losses = losses + (token IS NOT NULL),
    unique_key = NULL -- started: the key is free
WHERE id IN (SELECT value FROM json_each(:ids))
RETURNING id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
    expires, sent_at, key, worker, token;
