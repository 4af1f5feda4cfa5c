-- uses: graves rows
-- KEYS: tag. ARGV: an id. Returns three strings of the dead message: the message's two, and the error.
local tag, id = KEYS[1], ARGV[1]
local state, body, error = exhume(tag, id)
local rows = {}
if state then
    append(rows, tonumber(call('ZSCORE', tag .. ':dead', id) or 0), id, state, body)
    rows[#rows + 1] = error
end
return rows
