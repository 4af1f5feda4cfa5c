-- Move stored times back, for tests.
.parameter set :seconds 60
UPDATE mailrail_worker SET seen = seen - :seconds;
