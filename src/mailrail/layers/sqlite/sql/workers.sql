-- List the workers that live.
.parameter set :now 1800000000
.parameter set :forgotten 1799996400
SELECT id, details, :now - seen FROM mailrail_worker WHERE seen >= :forgotten ORDER BY id;
