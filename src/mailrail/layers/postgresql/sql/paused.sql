-- List the channels that are paused: since when, by whom and why.
SELECT channel, since, paused_by, reason FROM mailrail_pause;
