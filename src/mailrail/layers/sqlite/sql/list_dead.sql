-- List dead messages, last buried first, from a place on: of each channel no more than the page shows.
.parameter set :preview 500
.parameter set :error_length 2000
.parameter set :channels '["noop","mail"]'
.parameter set :before_at 2000000000
.parameter set :before_id 0190a0b0c0d070008000000000000001
.parameter set :limit 100
SELECT d.id, d.channel, d.buried_at, 'dead', substr(d.content, 1, :preview), d.attempt, d.losses, d.priority, d.lane,
    d.key, d.error_class, substr(d.error, -:error_length)
FROM json_each(:channels) AS open CROSS JOIN mailrail_dead d -- CROSS JOIN fixes the order of the loops
WHERE d.id IN (
    SELECT id FROM mailrail_dead
    WHERE channel = open.value AND buried_at <= :before_at
        AND (buried_at, id) < (:before_at, :before_id)
    ORDER BY buried_at DESC, id DESC LIMIT :limit)
ORDER BY d.buried_at DESC, d.id DESC LIMIT :limit;
