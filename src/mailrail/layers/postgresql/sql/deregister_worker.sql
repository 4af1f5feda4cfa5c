-- Forget a worker, and those that were not heard of for long. Locked rows are left to whoever deletes them just now.
\set id host-1
\set forgotten 3600
DELETE FROM mailrail_worker WHERE id = ANY (ARRAY (
    SELECT id FROM mailrail_worker WHERE id = :'id'
        OR seen < date_part('epoch', clock_timestamp()) - :'forgotten' FOR UPDATE SKIP LOCKED));
