-- Written by scripts/sql_variants.py from estimate_ready.sql: edit that.
-- Ask the planner for its own estimate of a count too large to make.
\set channel noop
EXPLAIN (FORMAT JSON) SELECT FROM mailrail_message
WHERE channel = :'channel' AND due > date_part('epoch', now());
