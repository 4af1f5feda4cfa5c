-- uses: dead_bodies rows places
-- KEYS: hash tag. ARGV: how many, an error's class, or nothing, after '=', bytes of a body, the moment and the id that they
-- come after, or nothing, and bytes of an error. Returns four strings of each, last buried first: the message's two, the class of
-- the error, and its end.
local hash_tag, limit, of_class, most, at, before = KEYS[1], tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local key = of_class == '' and hash_tag .. ':dead' or hash_tag .. ':dead:' .. of_class:sub(2)
local to = (at == '' and call('ZCARD', key) or count_to(key, at, before, false)) - 1
local found = to >= 0 and call('ZRANGE', key, math.max(0, to - limit + 1), to, 'WITHSCORES') or {}
local rows = {}
for j = #found - 1, 1, -2 do
    local state, body, error = read_dead(hash_tag, found[j])
    if state then
        append(rows, tonumber(found[j + 1]), found[j], state, body:sub(1, most))
        rows[#rows + 1] = call('HGET', hash_tag .. ':error_class', found[j]) or ''
        rows[#rows + 1] = error:sub(-tonumber(ARGV[6]))
    end
end
return rows
