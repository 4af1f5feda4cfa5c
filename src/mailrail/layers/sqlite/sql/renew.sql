-- Renew leases. The token alone decides.
.parameter set :now 1800000000
.parameter set :leases '{"noop": 15, "mail": 15}'
.parameter set :claims '[["0190a0b0c0d070008000000000000001", 42]]'
UPDATE mailrail_message SET due = :now + (SELECT value FROM json_each(:leases) WHERE key = channel)
WHERE (id, token) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:claims));
