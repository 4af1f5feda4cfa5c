-- Forget the groups that are older than so many seconds, and all but the last of one name, and of all.
\set seconds 1209600
\set most 1000
\set most_of_one 20
DELETE FROM mailrail_trouble WHERE ctid = ANY (ARRAY (
    SELECT ctid FROM mailrail_trouble
    WHERE last_at < date_part('epoch', clock_timestamp()) - :'seconds'::float8 OR (kind, name, what) IN (
        SELECT kind, name, what FROM (
            SELECT kind, name, what, row_number() OVER (ORDER BY last_at DESC, what) AS nth,
                row_number() OVER (PARTITION BY kind, name ORDER BY last_at DESC, what) AS nth_of_one
            FROM mailrail_trouble) AS ranked
        WHERE nth > :'most' OR nth_of_one > :'most_of_one')
    FOR UPDATE SKIP LOCKED));
