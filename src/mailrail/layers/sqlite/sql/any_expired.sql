-- Look whether a message has expired.
.parameter set :channels '["noop","mail"]'
.parameter set :now 1800000000
SELECT 1 FROM mailrail_message
WHERE channel IN (SELECT value FROM json_each(:channels))
    AND channel NOT IN (SELECT channel FROM mailrail_pause)
    AND expires <= :now AND (token IS NULL OR due <= :now)
LIMIT 1;
