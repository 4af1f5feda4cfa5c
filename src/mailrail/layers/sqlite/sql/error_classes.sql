-- List what the dead messages died of, found by jumping through the index from one class to the next.
.parameter set :channels '["noop","mail"]'
WITH RECURSIVE kind (channel, error_class) AS (
    SELECT value, (SELECT MIN(error_class) FROM mailrail_dead WHERE channel = value) FROM json_each(:channels)
    UNION ALL
    SELECT channel, (
        SELECT MIN(error_class) FROM mailrail_dead d
        WHERE d.channel = kind.channel AND d.error_class > kind.error_class)
    FROM kind WHERE error_class IS NOT NULL
)
SELECT DISTINCT error_class FROM kind WHERE error_class IS NOT NULL;
