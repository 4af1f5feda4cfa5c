-- Take what is due in a lane, and has no place there, out of the index that claims read, 1,000 at a time.
.parameter set :channel noop
.parameter set :lane tenant-3
.parameter set :now 1800000000
UPDATE mailrail_message SET held = 1
WHERE id IN (
    SELECT id FROM mailrail_message
    WHERE channel = :channel AND lane = :lane AND held = 0 AND places IS NOT NULL AND lane_seq IS NULL AND due <= :now
    ORDER BY due, id LIMIT 1000);
