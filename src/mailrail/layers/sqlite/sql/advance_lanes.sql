-- After something left these lanes: their lowest place becomes claimable.
.parameter set :lanes '[["noop", "customer-3"]]'
UPDATE mailrail_message SET held = 0
WHERE held = 1 AND id IN (
    SELECT (
        SELECT id FROM mailrail_message m
        WHERE m.channel = json_extract(value, '$[0]') AND m.lane = json_extract(value, '$[1]') AND m.lane_seq > 0
        ORDER BY lane_seq LIMIT 1)
    FROM json_each(:lanes));
