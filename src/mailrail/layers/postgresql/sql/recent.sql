-- Sum up each series over the last minutes.
\set since 1800000000
SELECT
    kind, name,
    SUM(sent)::bigint, SUM(done)::bigint, SUM(retried)::bigint, SUM(buried)::bigint, SUM(expired)::bigint,
    MAX(longest_wait), SUM(wait0)::bigint, SUM(wait1)::bigint, SUM(wait2)::bigint, SUM(wait3)::bigint,
    SUM(wait4)::bigint, SUM(wait5)::bigint, SUM(wait6)::bigint, SUM(wait7)::bigint, SUM(wait8)::bigint,
    SUM(wait9)::bigint, SUM(wait10)::bigint, SUM(wait11)::bigint, SUM(wait12)::bigint, SUM(wait13)::bigint,
    SUM(wait14)::bigint, SUM(wait15)::bigint, SUM(wait16)::bigint, SUM(wait17)::bigint, SUM(wait18)::bigint,
    SUM(wait19)::bigint, SUM(wait20)::bigint, SUM(wait21)::bigint, SUM(wait22)::bigint, SUM(wait23)::bigint,
    SUM(run0)::bigint, SUM(run1)::bigint, SUM(run2)::bigint, SUM(run3)::bigint, SUM(run4)::bigint, SUM(run5)::bigint,
    SUM(run6)::bigint, SUM(run7)::bigint, SUM(run8)::bigint, SUM(run9)::bigint, SUM(run10)::bigint,
    SUM(run11)::bigint, SUM(run12)::bigint, SUM(run13)::bigint, SUM(run14)::bigint, SUM(run15)::bigint,
    SUM(run16)::bigint, SUM(run17)::bigint, SUM(run18)::bigint, SUM(run19)::bigint, SUM(run20)::bigint,
    SUM(run21)::bigint, SUM(run22)::bigint, SUM(run23)::bigint
FROM mailrail_history WHERE span = 60 AND start >= :'since' GROUP BY kind, name;
