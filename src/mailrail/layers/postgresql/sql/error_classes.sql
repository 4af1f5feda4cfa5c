-- List what the dead messages died of, found by jumping through the index from one class to the next.
\set channels '{noop,mail}'
WITH RECURSIVE kind (channel, error_class) AS (
    SELECT channel, (
        SELECT error_class FROM mailrail_dead d WHERE d.channel = open.channel ORDER BY error_class LIMIT 1)
    FROM unnest(:'channels'::text[]) AS open (channel)
    UNION ALL
    SELECT channel, (
        SELECT error_class FROM mailrail_dead d
        WHERE d.channel = kind.channel AND d.error_class > kind.error_class ORDER BY error_class LIMIT 1)
    FROM kind WHERE error_class = error_class || '')
SELECT DISTINCT error_class FROM kind WHERE error_class IS NOT NULL;
