-- Forget a worker, and those that were not heard of for long.
.parameter set :id host-1
.parameter set :forgotten 1799996400
DELETE FROM mailrail_worker WHERE id = :id OR seen < :forgotten;
