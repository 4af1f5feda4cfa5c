-- Move stored times back, for tests.
\set seconds 60
UPDATE mailrail_bucket SET filled_at = filled_at - :'seconds';
