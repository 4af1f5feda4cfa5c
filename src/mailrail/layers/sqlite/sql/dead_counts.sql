-- Count the dead messages of each channel.
SELECT channel, COUNT(*) FROM mailrail_dead GROUP BY channel;
