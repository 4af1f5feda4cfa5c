-- Make a token bucket, if there is none of this name.
\set name partner-api
\set tokens 5
INSERT INTO mailrail_bucket (name, tokens, filled_at)
VALUES (:'name', :'tokens', date_part('epoch', clock_timestamp()))
ON CONFLICT (name) DO NOTHING;
