-- KEYS: what the keys of history begin with. ARGV: seconds that history is kept, most groups, most groups of one name, then for
-- each group: its id, kind, name, what (as it is stored), count, buried.
local base, kept = KEYS[1], tonumber(ARGV[1])
local all = base .. ':troubles'

local function forget(id)
    local of_one = call('HGET', base .. ':trouble:' .. id, 'of_one')
    if of_one then call('ZREM', of_one, id) end
    call('ZREM', all, id)
    call('DEL', base .. ':trouble:' .. id)
end

for j = 4, #ARGV, 6 do
    local id, of_one = ARGV[j], all .. ':' .. ARGV[j + 1] .. ':' .. ARGV[j + 2]
    local key = base .. ':trouble:' .. id
    call('HSETNX', key, 'first_at', string.format('%.17g', now))
    call('HSET', key, 'kind', ARGV[j + 1], 'name', ARGV[j + 2], 'what', ARGV[j + 3], 'of_one', of_one)
    call('HINCRBY', key, 'count', ARGV[j + 4])
    call('HINCRBY', key, 'buried', ARGV[j + 5])
    for _, list in ipairs({ all, of_one }) do
        call('ZADD', list, now, id)
        call('EXPIRE', list, math.ceil(kept) + 1)
    end
    call('EXPIRE', key, math.ceil(kept) + 1)
    for _, old in ipairs(call('ZRANGE', of_one, 0, -1 - tonumber(ARGV[3]))) do forget(old) end
end
for _, old in ipairs(call('ZRANGE', all, 0, -1 - tonumber(ARGV[2]))) do forget(old) end
for _, old in ipairs(call('ZRANGE', all, '-inf', now - kept, 'BYSCORE')) do forget(old) end
