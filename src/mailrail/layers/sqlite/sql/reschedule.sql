-- Reschedule claims, for a retry or released. The token alone decides. With a lane, they are of that one from then on.
.parameter set :now 1800000000
.parameter set :delay 0
.parameter set :attempts 0
.parameter set :alone 0
.parameter set :error 'ValueError: no'
.parameter set :lane tenant-3
.parameter set :places 5
.parameter set :claims '[["0190a0b0c0d070008000000000000001", 42]]'
UPDATE mailrail_message SET
    due = :now + :delay, attempt = attempt + :attempts, alone = alone OR :alone, worker = NULL,
    token = NULL, error = COALESCE(:error, error), lane = COALESCE(:lane, lane), places = COALESCE(:places, places),
    -- gives its place up, if its lane has several
    lane_seq = CASE WHEN COALESCE(:places, places) IS NULL THEN lane_seq END
WHERE (id, token) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:claims));
