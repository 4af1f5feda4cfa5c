-- Estimate how many rows of a table each of these channels has, by what the planner knows: how frequent the channel was
-- at the last ANALYZE, and how large the table is now. One EXPLAIN for each channel would take a round trip each.
\set table mailrail_message
\set channels '{noop}'
WITH
    size AS (
        SELECT reltuples / GREATEST(relpages, 1)
            * (pg_relation_size(oid) / current_setting('block_size')::float8) AS n, reltuples
        FROM pg_class WHERE oid = :'table'::regclass AND reltuples > 0),
    known AS (
        SELECT s.most_common_vals::text::text[] AS names, s.most_common_freqs AS shares, s.n_distinct
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname
        WHERE c.oid = :'table'::regclass AND s.attname = 'channel' AND NOT s.inherited),
    common AS (SELECT name, share FROM known, unnest(names, shares) AS pair (name, share)),
    other AS ( -- all others are taken for equally frequent
        SELECT GREATEST(0, 1 - (SELECT COALESCE(SUM(share), 0) FROM common)) / GREATEST(1,
            CASE WHEN n_distinct < 0 THEN -n_distinct * size.reltuples ELSE n_distinct END
            - (SELECT count(*) FROM common)) AS share
        FROM known, size)
SELECT given.channel, (size.n * COALESCE(common.share, other.share))::bigint
FROM unnest(:'channels'::text[]) AS given (channel)
CROSS JOIN size CROSS JOIN other LEFT JOIN common ON common.name = given.channel;
