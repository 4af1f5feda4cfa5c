-- Count the messages of each channel.
.parameter set :now 1800000000
SELECT
    channel,
    SUM(due <= :now), -- waiting for a worker, a lapsed lease among them
    SUM(due > :now AND token IS NULL),
    SUM(due > :now AND token IS NOT NULL),
    :now - MIN(due)
FROM mailrail_message GROUP BY channel;
