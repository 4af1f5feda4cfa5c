-- uses: rows
-- KEYS: tag. ARGV: an id. Returns three strings of the message (its two, and how its last run failed), if it waits or is claimed.
local tag, id = KEYS[1], ARGV[1]
local state = call('HGET', tag .. ':state', id)
local rows = {}
if state then
    local due = call('ZSCORE', tag .. ':due:' .. read(state).priority, id)
        or call('ZSCORE', tag .. ':claimed', id) or call('ZSCORE', tag .. ':held', id)
    append(rows, tonumber(due or 0), id, state, call('HGET', tag .. ':body', id))
    rows[#rows + 1] = call('HGET', tag .. ':errors', id) or ''
end
return rows
