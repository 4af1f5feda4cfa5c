-- Ask the planner how many messages there are, however many.
EXPLAIN (FORMAT JSON) SELECT FROM mailrail_message;
