-- uses: graves rows places
-- KEYS: tag. ARGV: how many, an error's class, or nothing, after '=', bytes of a body, the moment and the id that they
-- come after, or nothing, and bytes of an error. Returns four strings of each, last buried first: the message's two, the class of
-- the error, and its end.
local tag, limit, of_class, most, at, before = KEYS[1], tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local key = of_class == '' and tag .. ':dead' or tag .. ':dead:' .. of_class:sub(2)
local to = (at == '' and call('ZCARD', key) or count_to(key, at, before, false)) - 1
local found = to >= 0 and call('ZRANGE', key, math.max(0, to - limit + 1), to, 'WITHSCORES') or {}
local rows = {}
for j = #found - 1, 1, -2 do
    local state, body, error = exhume(tag, found[j])
    if state then
        append(rows, tonumber(found[j + 1]), found[j], state, body:sub(1, most))
        rows[#rows + 1] = call('HGET', tag .. ':error_class', found[j]) or ''
        rows[#rows + 1] = error:sub(-tonumber(ARGV[6]))
    end
end
return rows
