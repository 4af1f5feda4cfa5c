-- Resume a channel.
\set channel noop
DELETE FROM mailrail_pause WHERE channel = :'channel';
