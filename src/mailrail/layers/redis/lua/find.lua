-- uses: rows
-- KEYS: tag. ARGV: an id. Returns two strings of the message, if it waits or is claimed.
local tag, id = KEYS[1], ARGV[1]
local state = call('HGET', tag .. ':state', id)
local rows = {}
if state then
    local due = call('ZSCORE', tag .. ':due:' .. read(state).priority, id)
        or call('ZSCORE', tag .. ':claimed', id) or call('ZSCORE', tag .. ':held', id)
    append(rows, tonumber(due or 0), id, state, call('HGET', tag .. ':body', id))
end
return rows
