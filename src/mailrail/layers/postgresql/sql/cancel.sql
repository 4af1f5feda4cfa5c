-- Remove messages that nobody has claimed. advance_lanes.sql follows in the same transaction.
\set ids '{0190a0b0-c0d0-7000-8000-000000000001}'
\set channel noop
DELETE FROM mailrail_message
WHERE id = ANY (:'ids'::uuid[]) AND channel = :'channel' AND token IS NULL
RETURNING id, channel, lane, lane_seq;
