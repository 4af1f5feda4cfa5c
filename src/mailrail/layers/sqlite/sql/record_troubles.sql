-- Add to a group of what went wrong.
.parameter set :kind channel
.parameter set :name noop
.parameter set :what ValueError
.parameter set :count 1
.parameter set :buried 0
.parameter set :now 1800000000
INSERT INTO mailrail_trouble AS kept (kind, name, what, count, buried, first_at, last_at)
VALUES (:kind, :name, :what, :count, :buried, :now, :now)
ON CONFLICT (kind, name, what) DO UPDATE SET
    count = kept.count + excluded.count, buried = kept.buried + excluded.buried, last_at = excluded.last_at;
