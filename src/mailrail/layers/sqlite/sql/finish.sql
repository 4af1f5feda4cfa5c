-- Remove finished messages. The token alone decides.
.parameter set :claims '[["0190a0b0c0d070008000000000000001", 42]]'
DELETE FROM mailrail_message
WHERE (id, token) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:claims))
RETURNING id, token, channel, lane, lane_seq;
