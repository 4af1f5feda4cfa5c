-- Merge minutes that are older than so many seconds into hours, up to 10,000 rows at once. Rows that another worker
-- merges just now are left to it.
\set seconds 172800
WITH clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now), gone AS (
    DELETE FROM mailrail_history WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM mailrail_history
        WHERE span = 60
            AND start < (SELECT floor((now - :'seconds') / 3600)::bigint * 3600 FROM clock)
        ORDER BY start LIMIT 10000 FOR UPDATE SKIP LOCKED))
    RETURNING *)
INSERT INTO mailrail_history AS kept (
    kind, name, span, start,
    sent, done, retried, buried, expired, longest_wait, wait0, wait1, wait2, wait3, wait4, wait5, wait6, wait7,
    wait8, wait9, wait10, wait11, wait12, wait13, wait14, wait15, wait16, wait17, wait18, wait19, wait20, wait21,
    wait22, wait23, run0, run1, run2, run3, run4, run5, run6, run7, run8, run9, run10, run11, run12, run13, run14,
    run15, run16, run17, run18, run19, run20, run21, run22, run23)
SELECT
    kind, name, 3600, start / 3600 * 3600 AS hour,
    SUM(sent), SUM(done), SUM(retried), SUM(buried), SUM(expired), MAX(longest_wait), SUM(wait0), SUM(wait1),
    SUM(wait2), SUM(wait3), SUM(wait4), SUM(wait5), SUM(wait6), SUM(wait7), SUM(wait8), SUM(wait9), SUM(wait10),
    SUM(wait11), SUM(wait12), SUM(wait13), SUM(wait14), SUM(wait15), SUM(wait16), SUM(wait17), SUM(wait18),
    SUM(wait19), SUM(wait20), SUM(wait21), SUM(wait22), SUM(wait23), SUM(run0), SUM(run1), SUM(run2), SUM(run3),
    SUM(run4), SUM(run5), SUM(run6), SUM(run7), SUM(run8), SUM(run9), SUM(run10), SUM(run11), SUM(run12), SUM(run13),
    SUM(run14), SUM(run15), SUM(run16), SUM(run17), SUM(run18), SUM(run19), SUM(run20), SUM(run21), SUM(run22),
    SUM(run23)
FROM gone GROUP BY kind, name, hour ORDER BY kind, name, hour
ON CONFLICT (kind, name, span, start) DO UPDATE SET
    sent = kept.sent + excluded.sent, done = kept.done + excluded.done, retried = kept.retried + excluded.retried,
    buried = kept.buried + excluded.buried, expired = kept.expired + excluded.expired,
    longest_wait = GREATEST(kept.longest_wait, excluded.longest_wait), wait0 = kept.wait0 + excluded.wait0,
    wait1 = kept.wait1 + excluded.wait1, wait2 = kept.wait2 + excluded.wait2, wait3 = kept.wait3 + excluded.wait3,
    wait4 = kept.wait4 + excluded.wait4, wait5 = kept.wait5 + excluded.wait5, wait6 = kept.wait6 + excluded.wait6,
    wait7 = kept.wait7 + excluded.wait7, wait8 = kept.wait8 + excluded.wait8, wait9 = kept.wait9 + excluded.wait9,
    wait10 = kept.wait10 + excluded.wait10, wait11 = kept.wait11 + excluded.wait11,
    wait12 = kept.wait12 + excluded.wait12, wait13 = kept.wait13 + excluded.wait13,
    wait14 = kept.wait14 + excluded.wait14, wait15 = kept.wait15 + excluded.wait15,
    wait16 = kept.wait16 + excluded.wait16, wait17 = kept.wait17 + excluded.wait17,
    wait18 = kept.wait18 + excluded.wait18, wait19 = kept.wait19 + excluded.wait19,
    wait20 = kept.wait20 + excluded.wait20, wait21 = kept.wait21 + excluded.wait21,
    wait22 = kept.wait22 + excluded.wait22, wait23 = kept.wait23 + excluded.wait23, run0 = kept.run0 + excluded.run0,
    run1 = kept.run1 + excluded.run1, run2 = kept.run2 + excluded.run2, run3 = kept.run3 + excluded.run3,
    run4 = kept.run4 + excluded.run4, run5 = kept.run5 + excluded.run5, run6 = kept.run6 + excluded.run6,
    run7 = kept.run7 + excluded.run7, run8 = kept.run8 + excluded.run8, run9 = kept.run9 + excluded.run9,
    run10 = kept.run10 + excluded.run10, run11 = kept.run11 + excluded.run11, run12 = kept.run12 + excluded.run12,
    run13 = kept.run13 + excluded.run13, run14 = kept.run14 + excluded.run14, run15 = kept.run15 + excluded.run15,
    run16 = kept.run16 + excluded.run16, run17 = kept.run17 + excluded.run17, run18 = kept.run18 + excluded.run18,
    run19 = kept.run19 + excluded.run19, run20 = kept.run20 + excluded.run20, run21 = kept.run21 + excluded.run21,
    run22 = kept.run22 + excluded.run22, run23 = kept.run23 + excluded.run23
RETURNING 1;
