-- Claims travel as one string: a client reads that much faster than many. Of each message the number of its hash tag,
-- the lengths of state and body, and a time; then its id, state and body.
local function pack_message(parts, i, time, id, state, body)
    body = body or ''
    local n = #parts
    parts[n + 1], parts[n + 2], parts[n + 3] = struct.pack('<HIId', i, #state, #body, time), id, state
    parts[n + 4] = body
end
