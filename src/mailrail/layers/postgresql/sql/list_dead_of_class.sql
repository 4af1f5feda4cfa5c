-- Written by scripts/sql_variants.py from list_dead.sql: edit that.
-- List dead messages of one class of error, last buried first: of each channel no more than the page shows.
\set channels '{noop,mail}'
\set before_at 2000000000
\set before_id 0190a0b0-c0d0-7000-8000-000000000001
\set limit 100
\set preview 500
\set error_length 2000
\set error_class ValueError
WITH page AS MATERIALIZED (
    SELECT d.* FROM unnest(:'channels'::text[]) AS open (channel) CROSS JOIN LATERAL (
        SELECT d.id, d.buried_at FROM mailrail_dead d
        WHERE d.channel = open.channel AND d.buried_at <= :'before_at'
            AND (d.buried_at, d.id) < (:'before_at', :'before_id'::uuid) AND d.error_class = :'error_class'
        ORDER BY d.buried_at DESC, d.id DESC LIMIT :'limit') AS d
    ORDER BY d.buried_at DESC, d.id DESC LIMIT :'limit')
SELECT id, channel, buried_at, 'dead', left(content, :'preview'), attempt, losses, priority, lane, key, error_class,
    right(error, :'error_length')
FROM mailrail_dead WHERE id = ANY (ARRAY (SELECT id FROM page))
ORDER BY buried_at DESC, id DESC;
