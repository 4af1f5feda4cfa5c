-- uses: rows
-- KEYS: hash tag. ARGV: an id. Returns three strings of the message (its two, and how its last run failed), if it waits or is claimed.
local hash_tag, id = KEYS[1], ARGV[1]
local state = call('HGET', hash_tag .. ':state', id)
local rows = {}
if state then
    local due = call('ZSCORE', hash_tag .. ':due:' .. read(state).priority, id)
        or call('ZSCORE', hash_tag .. ':claimed', id) or call('ZSCORE', hash_tag .. ':held', id)
    append(rows, tonumber(due or 0), id, state, call('HGET', hash_tag .. ':body', id))
    rows[#rows + 1] = call('HGET', hash_tag .. ':errors', id) or ''
end
return rows
