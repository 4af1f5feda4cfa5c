-- uses: dead_bodies rows
-- KEYS: hash tag. ARGV: an id. Returns three strings of the dead message: the message's two, and the error.
local hash_tag, id = KEYS[1], ARGV[1]
local state, body, error = read_dead(hash_tag, id)
local rows = {}
if state then
    append(rows, tonumber(call('ZSCORE', hash_tag .. ':dead', id) or 0), id, state, body)
    rows[#rows + 1] = error
end
return rows
