-- Move stored times back, for tests.
.parameter set :seconds 60
UPDATE mailrail_message SET due = due - :seconds, expires = expires - :seconds, sent_at = sent_at - :seconds;
