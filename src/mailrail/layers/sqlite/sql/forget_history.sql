-- Forget what has ended before a moment.
.parameter set :forgotten 1799000000
DELETE FROM mailrail_history WHERE span IN (60, 3600) AND start < :forgotten - span;
