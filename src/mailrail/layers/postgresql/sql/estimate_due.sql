-- Ask the planner which share of all messages is due, however many there are.
EXPLAIN (FORMAT JSON) SELECT FROM mailrail_message WHERE due <= date_part('epoch', now());
