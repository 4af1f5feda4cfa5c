-- Say how many tokens a bucket holds now.
.parameter set :name partner-api
.parameter set :tokens 5
.parameter set :now 1800000000
INSERT INTO mailrail_bucket (name, tokens, filled_at) VALUES (:name, :tokens, :now)
ON CONFLICT (name) DO UPDATE SET tokens = excluded.tokens, filled_at = excluded.filled_at;
