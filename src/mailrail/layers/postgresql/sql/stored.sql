-- Say which of these ids are stored.
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
SELECT id FROM mailrail_message WHERE id = ANY (:'ids'::uuid[]);
