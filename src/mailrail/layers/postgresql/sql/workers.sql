-- List the workers that live.
\set forgotten 3600
SELECT id, details, date_part('epoch', clock_timestamp()) - seen
FROM mailrail_worker WHERE seen >= date_part('epoch', clock_timestamp()) - :'forgotten' ORDER BY id;
