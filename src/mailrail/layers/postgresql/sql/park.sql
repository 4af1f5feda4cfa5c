-- Take messages behind another one of their lane out of the index that claims read, 1,000 at a time. The one they
-- wait for is locked against removal: whoever removes it comes after us, sees them held, and lets the next one go.
-- One that is being removed just now is passed over, and they stay where they are.
\set channels '{noop,mail}'
\set lanes '{customer-3,customer-4}'
UPDATE mailrail_message m SET held = 1 WHERE m.id = ANY (ARRAY (
    SELECT behind.id
    FROM unnest(:'channels'::text[], :'lanes'::text[]) AS lane (channel, name)
    CROSS JOIN LATERAL (
        SELECT lane_seq FROM mailrail_message h
        WHERE h.channel = lane.channel AND h.lane = lane.name AND h.lane_seq > 0
        ORDER BY lane_seq LIMIT 1 FOR KEY SHARE SKIP LOCKED) AS ahead
    CROSS JOIN LATERAL (
        SELECT id FROM mailrail_message b
        WHERE b.channel = lane.channel AND b.lane = lane.name AND b.lane_seq > ahead.lane_seq AND b.held = 0
        ORDER BY b.lane_seq LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED) AS behind));
