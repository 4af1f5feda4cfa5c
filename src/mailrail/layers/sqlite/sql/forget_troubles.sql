-- Forget the groups that have not grown since a moment, and all but the last of one name, and of all.
.parameter set :forgotten 1799000000
.parameter set :most 1000
.parameter set :most_of_one 20
DELETE FROM mailrail_trouble WHERE last_at < :forgotten OR rowid IN (
    SELECT id FROM (
        SELECT rowid AS id, row_number() OVER (ORDER BY last_at DESC, what) AS nth,
            row_number() OVER (PARTITION BY kind, name ORDER BY last_at DESC, what) AS nth_of_one
        FROM mailrail_trouble) AS ranked
    WHERE nth > :most OR nth_of_one > :most_of_one);
