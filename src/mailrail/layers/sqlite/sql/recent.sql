-- Sum up each series over the last minutes.
.parameter set :since 1800000000
SELECT
    kind, name,
    SUM(sent), SUM(done), SUM(retried), SUM(buried), SUM(expired), MAX(longest_wait), SUM(wait0), SUM(wait1),
    SUM(wait2), SUM(wait3), SUM(wait4), SUM(wait5), SUM(wait6), SUM(wait7), SUM(wait8), SUM(wait9), SUM(wait10),
    SUM(wait11), SUM(wait12), SUM(wait13), SUM(wait14), SUM(wait15), SUM(wait16), SUM(wait17), SUM(wait18),
    SUM(wait19), SUM(wait20), SUM(wait21), SUM(wait22), SUM(wait23), SUM(run0), SUM(run1), SUM(run2), SUM(run3),
    SUM(run4), SUM(run5), SUM(run6), SUM(run7), SUM(run8), SUM(run9), SUM(run10), SUM(run11), SUM(run12), SUM(run13),
    SUM(run14), SUM(run15), SUM(run16), SUM(run17), SUM(run18), SUM(run19), SUM(run20), SUM(run21), SUM(run22),
    SUM(run23)
FROM mailrail_history WHERE span = 60 AND start >= :since GROUP BY kind, name;
