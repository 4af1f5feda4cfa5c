-- Lease again, under a new token and with a whole lease, what a claim has leased whose answer never came. What is
-- leased is due within the lease from now. So nothing else is read, but for what is scheduled for these seconds.
\set channels '{noop,mail}'
\set leases '{15,15}'
\set token 42
\set unconfirmed '{41}'
WITH RECURSIVE
    clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now),
    open (channel, lease) AS MATERIALIZED (SELECT * FROM unnest(:'channels'::text[], :'leases'::float8[])),
    level (channel, priority, min_due) AS (
        SELECT channel, (
            SELECT priority FROM mailrail_message m WHERE m.channel = open.channel AND m.held = 0
            ORDER BY priority DESC LIMIT 1), '-infinity'::float8
        FROM open
        UNION ALL
        SELECT channel, (
            SELECT priority FROM mailrail_message m
            WHERE m.channel = level.channel AND m.priority < level.priority AND m.held = 0
            ORDER BY priority DESC LIMIT 1), '-infinity'::float8
        FROM level WHERE priority = priority + 0)
UPDATE mailrail_message m SET
    due = (SELECT now FROM clock) + (SELECT lease FROM open WHERE open.channel = m.channel), token = :'token'
WHERE m.id = ANY (ARRAY (
    SELECT leased.id FROM level JOIN open USING (channel) CROSS JOIN LATERAL (
        SELECT id FROM mailrail_message m
        WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0
            AND m.due > (SELECT now FROM clock) AND m.due <= (SELECT now FROM clock) + open.lease
            AND m.token = ANY (:'unconfirmed'::bigint[])
        ORDER BY m.due LIMIT 10000 -- with a limit, it stays a loop over levels, and is no join of the whole table
        ) AS leased))
RETURNING m.id, m.channel, m.content, m.headers, m.v, m.lane, m.lane_seq, m.attempt, m.losses, m.alone,
    m.max_attempts, m.priority, m.due, m.expires, m.sent_at, m.key, m.worker, m.token;
