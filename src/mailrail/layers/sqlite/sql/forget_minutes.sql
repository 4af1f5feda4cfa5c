-- Forget minutes that are in their hours now.
.parameter set :until 1800000000
DELETE FROM mailrail_history WHERE span = 60 AND start < :until;
