-- Add counts to the minutes of series; without `start`, to the present one. In the order of the key, so that two
-- workers who add to the same rows wait for each other in turn.
-- A row has kind, name, start, counts (5), longest_wait, waits (24) and runs (24).
\set rows '[]'
WITH clock AS MATERIALIZED (SELECT date_part('epoch', clock_timestamp()) AS now)
INSERT INTO mailrail_history AS kept (
    kind, name, span, start,
    sent, done, retried, buried, expired, longest_wait, wait0, wait1, wait2, wait3, wait4, wait5, wait6, wait7,
    wait8, wait9, wait10, wait11, wait12, wait13, wait14, wait15, wait16, wait17, wait18, wait19, wait20, wait21,
    wait22, wait23, run0, run1, run2, run3, run4, run5, run6, run7, run8, run9, run10, run11, run12, run13, run14,
    run15, run16, run17, run18, run19, run20, run21, run22, run23)
SELECT
    kind, name, 60, floor(COALESCE(start, (SELECT now FROM clock)) / 60)::bigint * 60 AS minute,
    SUM(counts[1]), SUM(counts[2]), SUM(counts[3]), SUM(counts[4]), SUM(counts[5]), MAX(longest_wait), SUM(waits[1]),
    SUM(waits[2]), SUM(waits[3]), SUM(waits[4]), SUM(waits[5]), SUM(waits[6]), SUM(waits[7]), SUM(waits[8]),
    SUM(waits[9]), SUM(waits[10]), SUM(waits[11]), SUM(waits[12]), SUM(waits[13]), SUM(waits[14]), SUM(waits[15]),
    SUM(waits[16]), SUM(waits[17]), SUM(waits[18]), SUM(waits[19]), SUM(waits[20]), SUM(waits[21]), SUM(waits[22]),
    SUM(waits[23]), SUM(waits[24]), SUM(runs[1]), SUM(runs[2]), SUM(runs[3]), SUM(runs[4]), SUM(runs[5]),
    SUM(runs[6]), SUM(runs[7]), SUM(runs[8]), SUM(runs[9]), SUM(runs[10]), SUM(runs[11]), SUM(runs[12]),
    SUM(runs[13]), SUM(runs[14]), SUM(runs[15]), SUM(runs[16]), SUM(runs[17]), SUM(runs[18]), SUM(runs[19]),
    SUM(runs[20]), SUM(runs[21]), SUM(runs[22]), SUM(runs[23]), SUM(runs[24])
FROM json_to_recordset(:'rows'::json) AS given (
    kind text, name text, start float8, counts int[], longest_wait float8, waits int[], runs int[])
GROUP BY kind, name, minute ORDER BY kind, name, minute
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
    run22 = kept.run22 + excluded.run22, run23 = kept.run23 + excluded.run23;
