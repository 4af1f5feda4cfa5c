-- Remove dead messages.
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
\set channel noop
DELETE FROM mailrail_dead WHERE id = ANY (:'ids'::uuid[]) AND channel = :'channel' RETURNING id;
