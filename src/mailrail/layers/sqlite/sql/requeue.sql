-- Store a dead message again, at the end of its lane.
.parameter set :now 1800000000
.parameter set :id 0190a0b0c0d070008000000000000001
.parameter set :channel noop
INSERT INTO mailrail_message (id, channel, content, headers, v, lane, places, lane_seq, attempt, losses, alone,
    max_attempts, priority, due, expires, sent_at, key, unique_key, held, worker, token)
SELECT
    id, channel, content, headers, v, lane, places,
    CASE WHEN lane IS NOT NULL AND places IS NULL THEN
        1 + COALESCE((
            SELECT MAX(lane_seq) FROM mailrail_message m
            WHERE m.channel = d.channel AND m.lane = d.lane AND m.lane_seq > 0), 0)
    END,
    0, MIN(losses, 1), alone, max_attempts, priority, :now, NULL, sent_at, key,
    NULL, places IS NULL AND EXISTS (
        SELECT 1 FROM mailrail_message m WHERE m.channel = d.channel AND m.lane = d.lane AND m.lane_seq > 0),
    NULL, NULL
FROM mailrail_dead d WHERE id = :id AND channel = :channel
ON CONFLICT (id) DO NOTHING;
