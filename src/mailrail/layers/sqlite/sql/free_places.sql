-- Say how many places of a lane are free, as what waits there asks for; NULL if nothing waits.
.parameter set :channel noop
.parameter set :lane tenant-3
.parameter set :now 1800000000
SELECT COALESCE(
    (
        SELECT places FROM mailrail_message
        WHERE channel = :channel AND lane = :lane AND held = 1 AND places IS NOT NULL
        ORDER BY priority DESC, due, id LIMIT 1),
    (
        SELECT places FROM mailrail_message
        WHERE channel = :channel AND lane = :lane AND held = 0 AND places IS NOT NULL AND lane_seq IS NULL
            AND due <= :now
        ORDER BY due, id LIMIT 1)
    ) - (SELECT COUNT(*) FROM mailrail_message WHERE channel = :channel AND lane = :lane AND lane_seq = 0);
