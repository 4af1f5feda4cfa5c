-- Move stored times back, for tests.
.parameter set :seconds 60
UPDATE mailrail_bucket SET filled_at = filled_at - :seconds;
