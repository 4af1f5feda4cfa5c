-- Store a message with a key, a lane, or both.
.parameter set :id 0190a0b0c0d070008000000000000001
.parameter set :channel noop
.parameter set :content '{"n": 1}'
.parameter set :headers '{}'
.parameter set :v 1
.parameter set :lane customer-3
.parameter set :places 5
.parameter set :attempt 0
.parameter set :losses 0
.parameter set :alone 0
.parameter set :max_attempts 5
.parameter set :priority 0
.parameter set :due 2000000000
.parameter set :expires 2000000000
.parameter set :sent_at 1800000000
.parameter set :key report-7
.parameter set :unique_key report-7
INSERT INTO mailrail_message
    (id, channel, content, headers, v, lane, places, lane_seq, attempt, losses, alone, max_attempts, priority, due,
     expires, sent_at, key, unique_key, held, worker, token)
SELECT
    :id, :channel, :content, :headers, :v, :lane, :places,
    -- the lane's next place; nobody else can take it before we commit
    CASE WHEN :lane IS NOT NULL AND :places IS NULL THEN
        1 + COALESCE((
            SELECT MAX(lane_seq) FROM mailrail_message WHERE channel = :channel AND lane = :lane AND lane_seq > 0), 0)
    END,
    :attempt, :losses, :alone, :max_attempts, :priority, :due, :expires, :sent_at,
    :key, :unique_key,
    -- only the head of a lane is in the index that claims read; in one with several places, a claim decides
    :places IS NULL AND EXISTS (
        SELECT 1 FROM mailrail_message WHERE channel = :channel AND lane = :lane AND lane_seq > 0),
    NULL, NULL
WHERE TRUE -- SQLite's grammar needs it between SELECT and ON CONFLICT
ON CONFLICT (id) DO NOTHING
ON CONFLICT (channel, unique_key) WHERE unique_key IS NOT NULL DO UPDATE SET
    due = MIN(due, excluded.due), -- the earlier of the two
    expires = MAX(expires, excluded.expires) -- the later one; NULL, never, wins: MAX with NULL is NULL
RETURNING id; -- of the one that waits under its key, if there is one; nothing for a repeat
