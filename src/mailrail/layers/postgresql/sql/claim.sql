-- Settle, choose and lease, in one round trip.
-- For a single channel: lock up to `room` messages of each priority, and lease the best of them.
\set channels '{noop}'
\set rooms '{8}'
\set leases '{15}'
\set total 8
\set despite f
\set worker host-1
\set token 42
\set besides '{}'
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
\set tokens '{41}'
WITH RECURSIVE
    clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now),
    open (channel, room, lease) AS MATERIALIZED (
        -- The arrays are read in a select list. In FROM, unnest() of several arrays first copies each of them.
        SELECT * FROM (
            SELECT unnest(:'channels'::text[]) AS channel, unnest(:'rooms'::int[]), unnest(:'leases'::float8[])
        ) AS wanted
        WHERE NOT EXISTS (SELECT FROM mailrail_pause p WHERE p.channel = wanted.channel)),
    -- The priorities in use, found by jumping through the index from one to the next, never by reading the backlog.
    -- There are few. But the planner expects ten times as many rows as a recursion begins with, and ten times more from
    -- each recursion on top. That cost makes the server compile the statement (`jit_above_cost`) for longer than it
    -- runs. Of a comparison with a computed value it expects that hardly a row fulfils it: this one is true unless
    -- there is NULL.
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
        FROM level WHERE priority = priority + 0),
    share (channel, priority, min_due, n) AS MATERIALIZED (
        SELECT channel, priority, min_due, room FROM level JOIN open USING (channel)),
    -- The token alone decides. Those of lanes are left to finish_in_lanes.sql. Each token is looked up by the place of
    -- its id. A join with the claims, of which the planner expects a row or ten, would compare each with each, and a
    -- hash of them takes a tenth of the statement's time to set up for a batch of eight. Of an id that is there twice,
    -- the first token counts: the other one is reported, and finish_in_lanes.sql finishes it.
    finished AS (
        DELETE FROM mailrail_message m
        WHERE m.id = ANY (:'ids'::uuid[]) AND m.lane IS NULL
            AND m.token = (:'tokens'::bigint[])[array_position(:'ids'::uuid[], m.id)]
        RETURNING m.id, m.token),
    found AS MATERIALIZED (
        SELECT first.*, share.channel, share.n,
            -- Behind another one of its lane; or in a lane with several places, and without one (places.sql).
            first.lane IS NOT NULL AND COALESCE(first.lane_seq > (
                SELECT MIN(lane_seq) FROM mailrail_message ahead
                WHERE ahead.channel = share.channel AND ahead.lane = first.lane AND ahead.lane_seq > 0
            ), first.lane_seq IS NULL) AS blocked
        -- Which messages may be claimed, oldest first. Expired ones are left to drop_expired.sql.
        -- No channel has more priorities. But of a limit that it does not know the planner expects a tenth, one row.
        -- Else a plan for all values would seem dearer than one for these, and be made anew for each claim, which takes
        -- longer than to carry it out.
        FROM (TABLE share LIMIT 65536 * cardinality(:'channels'::text[])) AS share CROSS JOIN LATERAL (
            SELECT id, lane, lane_seq, priority, due FROM mailrail_message m
            WHERE m.channel = share.channel AND m.priority = share.priority AND m.held = 0
                AND m.due <= (SELECT now FROM clock) AND m.due >= share.min_due
                AND (m.expires IS NULL OR m.expires > (SELECT now FROM clock))
                AND m.id <> ALL (:'besides'::uuid[])
            ORDER BY m.due, m.id LIMIT share.n
            FOR UPDATE SKIP LOCKED -- what another worker is about to claim is not waited for
        ) AS first),
    ranked AS (
        SELECT id, n, priority, due,
            row_number() OVER (PARTITION BY channel ORDER BY priority DESC, due, id) AS nth
        FROM found
        -- Those blocked may stand where better ones could. First they are put out of the way (park.sql), if they can.
        WHERE NOT blocked AND (:'despite' OR NOT EXISTS (SELECT FROM found WHERE blocked))),
    chosen AS MATERIALIZED (
        SELECT id, due FROM ranked WHERE nth <= n ORDER BY priority DESC, due, id LIMIT :'total'),
    leased AS (
        UPDATE mailrail_message m SET
            due = (SELECT now FROM clock) + (SELECT lease FROM open WHERE open.channel = m.channel),
            worker = :'worker',
            token = :'token',
            -- A token that is still there means: the last lease lapsed unsettled.
            attempt = attempt + (token IS NULL)::int,
            losses = losses + (token IS NOT NULL)::int,
            unique_key = NULL -- started: the key is free
        -- By ids alone: of `chosen` the planner expects one row. So a join with it was an index scan of all ids once
        -- for each row, 40,000 look-ups for a batch of 200.
        WHERE id = ANY (ARRAY (SELECT id FROM chosen))
        RETURNING id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due,
            expires, sent_at, key, worker, token),
    news AS (
        SELECT json_build_object(
            'chosen', (SELECT json_agg(json_build_array(id, due)) FROM chosen), -- best first, with what was its due
            'lost', CASE WHEN (SELECT count(*) FROM finished) < cardinality(:'ids'::uuid[]) THEN (
                SELECT json_agg(json_build_array(id, token))
                FROM unnest(:'ids'::uuid[], :'tokens'::bigint[]) AS given (id, token)
                WHERE ((id, token) IN (SELECT id, token FROM finished)) IS NOT TRUE) END,
            'blocked', (
                SELECT jsonb_agg(DISTINCT jsonb_build_array(channel, lane, lane_seq IS NULL)) FROM found WHERE blocked),
            -- In the order of the index, or the planner might read the whole table for it, and that at each claim.
            'overdue', (
                SELECT json_agg(channel) FROM open WHERE (
                    SELECT m.expires FROM mailrail_message m
                    WHERE m.channel = open.channel AND m.expires <= (SELECT now FROM clock)
                        -- claimed ones are safe until their lease is over
                        AND (m.token IS NULL OR m.due <= (SELECT now FROM clock))
                    ORDER BY m.expires LIMIT 1) IS NOT NULL),
            'passed_over', FALSE)::text AS text)
SELECT text, leased.* FROM leased FULL JOIN news ON FALSE; -- the news, and the messages
