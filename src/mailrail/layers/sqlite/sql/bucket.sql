-- Read a token bucket.
.parameter set :name partner-api
SELECT tokens, filled_at FROM mailrail_bucket WHERE name = :name;
