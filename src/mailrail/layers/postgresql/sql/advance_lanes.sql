-- After something left these lanes, from the place `gone` on: their lowest place becomes claimable. Has to be a
-- statement of its own, after the removal: its snapshot shows what was parked until then. A lowest place behind
-- `gone` is locked against removal until the transaction commits. Otherwise a transaction that removes it at that
-- moment would still see `gone` ahead of it. Then neither transaction would free the next place. The first column
-- says how many of them were removed while this statement waited; if any were, it is run once more. The second says
-- whether the snapshot is that of the transaction's beginning.
\set channels '{noop,mail}'
\set lanes '{customer-3,customer-4}'
\set gone '{1,1}'
WITH heads AS MATERIALIZED (
    SELECT head.id, head.held
    FROM unnest(:'channels'::text[], :'lanes'::text[], :'gone'::bigint[]) AS lane (channel, name, gone)
    CROSS JOIN LATERAL (
        SELECT id, held, lane_seq FROM mailrail_message h
        WHERE h.channel = lane.channel AND h.lane = lane.name AND h.lane_seq > 0
        ORDER BY lane_seq LIMIT 1) AS head
    WHERE head.held = 1 OR head.lane_seq > lane.gone),
kept AS MATERIALIZED (
    SELECT m.id FROM mailrail_message m
    WHERE m.id = ANY (ARRAY (SELECT id FROM heads WHERE held = 0))
        AND m.held < 1 -- = 0 would be true of all rows of an index that is not that of ids
    FOR KEY SHARE),
free AS (
    UPDATE mailrail_message m SET held = 0
    WHERE m.id = ANY (ARRAY (SELECT id FROM heads WHERE held = 1)) RETURNING m.id, m.channel),
told AS (SELECT pg_notify('mailrail', channel) FROM (SELECT DISTINCT channel FROM free) AS channels)
SELECT (SELECT count(*) FROM heads) - (SELECT count(*) FROM kept) - (SELECT count(*) FROM free)
    + 0 * (SELECT count(*) FROM told), current_setting('transaction_isolation') <> 'read committed';
