-- Move stored times back, for tests: after age_history.sql.
\set seconds 60
UPDATE mailrail_history SET start = -start WHERE start < 0 AND :'seconds'::float8 IS NOT NULL;
