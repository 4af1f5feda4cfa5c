-- Pause a channel. One that is paused stays paused since then; a new reason replaces who and why.
.parameter set :channel noop
.parameter set :now 1800000000
.parameter set :paused_by alice
.parameter set :reason "'the mail server moves'"
INSERT INTO mailrail_pause (channel, since, paused_by, reason) VALUES (:channel, :now, :paused_by, :reason)
ON CONFLICT (channel) DO UPDATE SET paused_by = excluded.paused_by, reason = excluded.reason
WHERE excluded.reason != '';
