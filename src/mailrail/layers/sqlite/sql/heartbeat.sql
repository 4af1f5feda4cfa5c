-- Say that a worker lives.
.parameter set :id host-1
.parameter set :details '{}'
.parameter set :now 1800000000
INSERT INTO mailrail_worker (id, details, seen) VALUES (:id, :details, :now)
ON CONFLICT (id) DO UPDATE SET details = excluded.details, seen = excluded.seen;
