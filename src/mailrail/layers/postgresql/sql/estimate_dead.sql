-- Ask the planner for its own estimate of a count too large to make.
\set channel noop
EXPLAIN (FORMAT JSON) SELECT FROM mailrail_dead WHERE channel = :'channel';
