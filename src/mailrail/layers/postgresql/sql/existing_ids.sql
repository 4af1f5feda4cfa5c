-- Return which of these ids exist: waiting, claimed or dead.
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
\set channel noop
SELECT id FROM mailrail_message WHERE id = ANY (:'ids'::uuid[]) AND channel = :'channel'
UNION ALL
SELECT id FROM mailrail_dead WHERE id = ANY (:'ids'::uuid[]) AND channel = :'channel';
