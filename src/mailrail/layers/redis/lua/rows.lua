-- Messages travel as two strings: time, id and state; body.
local function append(rows, time, id, state, body)
    rows[#rows + 1] = struct.pack('<d', time) .. id .. state
    rows[#rows + 1] = body or ''
end
