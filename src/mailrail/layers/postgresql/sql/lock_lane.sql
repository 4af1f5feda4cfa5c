-- Lock a lane until the sender's transaction ends, so places in a lane are taken in the order of commits. Only
-- senders take it: a long transaction that sends never holds up a worker.
\set lane 7
SELECT pg_advisory_xact_lock(:'lane');
