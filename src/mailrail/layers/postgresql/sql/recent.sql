-- Sum up each series over the last minutes. Somebody asks every second, so the histograms are left out.
\set since 1800000000
SELECT
    kind, name,
    SUM(sent)::bigint, SUM(done)::bigint, SUM(retried)::bigint, SUM(buried)::bigint, SUM(expired)::bigint,
    MAX(longest_wait)
FROM mailrail_history WHERE span = 60 AND start >= :'since' AND start <= date_part('epoch', clock_timestamp())
GROUP BY kind, name;
