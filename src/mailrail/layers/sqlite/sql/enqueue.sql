-- Store a message that has no key and no lane: the common one, and the fast one. Its values are given in this order.
.parameter set :id 0190a0b0c0d070008000000000000001
.parameter set :channel noop
.parameter set :content '{"n": 1}'
.parameter set :headers '{}'
.parameter set :v 1
.parameter set :attempt 0
.parameter set :losses 0
.parameter set :alone 0
.parameter set :max_attempts 5
.parameter set :priority 0
.parameter set :due 2000000000
.parameter set :expires 2000000000
.parameter set :sent_at 1800000000
INSERT INTO mailrail_message
    (id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due, expires,
     sent_at, key, unique_key, held, worker, token)
VALUES
    (:id, :channel, :content, :headers, :v, NULL, NULL, :attempt, :losses, :alone, :max_attempts, :priority, :due,
     :expires, :sent_at, NULL, NULL, 0, NULL, NULL)
ON CONFLICT (id) DO NOTHING; -- a repeat of an id is harmless
