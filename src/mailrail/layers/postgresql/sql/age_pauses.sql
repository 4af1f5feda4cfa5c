-- Move stored times back, for tests.
\set seconds 60
UPDATE mailrail_pause SET since = since - :'seconds';
