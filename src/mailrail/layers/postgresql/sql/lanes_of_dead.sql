-- Say which lanes these dead messages are of.
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
\set channel noop
SELECT DISTINCT lane FROM mailrail_dead
WHERE id = ANY (:'ids'::uuid[]) AND channel = :'channel' AND lane IS NOT NULL;
