-- Move stored times back, for tests.
.parameter set :seconds 60
UPDATE mailrail_pause SET since = since - :seconds;
