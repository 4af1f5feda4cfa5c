-- Say whether there is something to merge or to forget. Without it, nobody takes the write lock.
.parameter set :until 1800000000
.parameter set :forgotten 1799000000
SELECT EXISTS (SELECT 1 FROM mailrail_history WHERE span = 60 AND start < :until)
    OR EXISTS (SELECT 1 FROM mailrail_history WHERE span = 3600 AND start < :forgotten - 3600)
    OR EXISTS (SELECT 1 FROM mailrail_trouble WHERE last_at < :forgotten);
