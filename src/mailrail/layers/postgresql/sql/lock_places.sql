-- Lock lanes with several places until the transaction ends. Only those take these locks who give places away, so that
-- each of them sees what the others have given. The numbers are sorted, so that two cannot wait for each other.
-- In a transaction whose statements all see its beginning, nothing is locked, and no row returned.
\set lanes '{7,8}'
SELECT pg_advisory_xact_lock(lane) FROM unnest(:'lanes'::bigint[]) AS lane
WHERE current_setting('transaction_isolation') = 'read committed';
