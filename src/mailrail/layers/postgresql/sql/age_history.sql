-- Move stored times back by whole spans, for tests. Below zero first (age_history_again.sql): a row must not meet the
-- next one on its way.
\set seconds 60
UPDATE mailrail_history SET start = -(start - floor(:'seconds'::float8 / span)::bigint * span);
