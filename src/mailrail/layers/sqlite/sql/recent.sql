-- Sum up each series over the last minutes. Somebody asks every second, so the histograms are left out.
.parameter set :since 1800000000
.parameter set :now 1800000090
SELECT kind, name, SUM(sent), SUM(done), SUM(retried), SUM(buried), SUM(expired), MAX(longest_wait)
FROM mailrail_history WHERE span = 60 AND start >= :since AND start <= :now GROUP BY kind, name;
