-- Count the dead messages of each channel, likewise.
\set most 100
WITH RECURSIVE
    buried (channel) AS (
        (SELECT channel FROM mailrail_dead ORDER BY channel LIMIT 1)
        UNION ALL
        SELECT (
            SELECT d.channel FROM mailrail_dead d WHERE d.channel > buried.channel ORDER BY d.channel LIMIT 1)
        FROM buried WHERE channel = channel || '')
SELECT channel, (
    SELECT count(*) FROM (
        SELECT FROM mailrail_dead d WHERE d.channel = buried.channel LIMIT :'most' + 1) AS few)
FROM buried WHERE channel IS NOT NULL;
