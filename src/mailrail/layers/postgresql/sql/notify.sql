-- Wake those who wait for messages of a channel.
\set channel noop
SELECT pg_notify('mailrail', :'channel');
