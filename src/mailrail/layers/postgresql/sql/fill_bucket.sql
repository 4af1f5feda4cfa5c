-- Say how many tokens a bucket holds now.
\set tokens 5
\set name partner-api
UPDATE mailrail_bucket SET tokens = :'tokens', filled_at = date_part('epoch', clock_timestamp())
WHERE name = :'name';
