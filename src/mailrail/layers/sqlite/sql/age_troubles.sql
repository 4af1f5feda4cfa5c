-- Move stored times back, for tests.
.parameter set :seconds 60
UPDATE mailrail_trouble SET first_at = first_at - :seconds, last_at = last_at - :seconds;
