-- List the channels that are paused.
SELECT channel FROM mailrail_pause;
