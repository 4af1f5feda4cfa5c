-- Say which claims are still held by who says so. The token alone decides.
.parameter set :claims '[["0190a0b0c0d070008000000000000001", 42]]'
SELECT id, token, channel, lane, lane_seq FROM mailrail_message
WHERE (id, token) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:claims));
