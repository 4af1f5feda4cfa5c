-- Move stored times back by whole spans, for tests. Below zero first (age_history_again.sql): a row must not meet the
-- next one on its way.
.parameter set :seconds 60
UPDATE mailrail_history SET start = -(start - CAST(:seconds / span AS INTEGER) * span);
