-- uses: graves rows places
-- KEYS: tag. ARGV: how many, and the moment and the id of the one they come after, or nothing.
-- Returns three strings of each: the message's two, and the error.
local tag, limit, at, before = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3]
local rows, from = {}, 0
while #rows < 3 * limit do
    local found = call('ZRANGE', tag .. ':dead', at, '-inf', 'BYSCORE', 'REV', 'LIMIT', from, limit, 'WITHSCORES')
    for j = 1, #found, 2 do
        local is_after = before == '' or tonumber(found[j + 1]) < tonumber(at) or is_before(found[j], before)
        local state, body, error = exhume(tag, found[j])
        if is_after and state and #rows < 3 * limit then
            append(rows, tonumber(found[j + 1]), found[j], state, body)
            rows[#rows + 1] = error
        end
    end
    if #found < 2 * limit then break end
    from = from + limit
end
return rows
