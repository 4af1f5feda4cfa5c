-- Move stored times, for tests.
\set seconds 60
UPDATE mailrail_worker SET seen = seen - :'seconds';
