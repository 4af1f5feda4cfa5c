-- List the groups of what went wrong that have grown since then.
\set since 0
SELECT kind, name, what, count, buried, first_at, last_at FROM mailrail_trouble WHERE last_at >= :'since';
