-- Give the free places of a lane to what is due there: the highest priority first, then the oldest due.
.parameter set :channel noop
.parameter set :lane tenant-3
.parameter set :now 1800000000
.parameter set :free 5
UPDATE mailrail_message SET held = 0, lane_seq = 0
WHERE id IN (
    SELECT id FROM (
        SELECT * FROM (
            SELECT id, priority, due FROM mailrail_message
            WHERE channel = :channel AND lane = :lane AND held = 1 AND places IS NOT NULL
            ORDER BY priority DESC, due, id LIMIT :free)
        UNION ALL
        SELECT * FROM (
            SELECT id, priority, due FROM mailrail_message
            WHERE channel = :channel AND lane = :lane AND held = 0 AND places IS NOT NULL AND lane_seq IS NULL
                AND due <= :now
            ORDER BY due, id LIMIT 1000))
    ORDER BY priority DESC, due, id LIMIT :free);
