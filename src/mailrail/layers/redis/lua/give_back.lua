-- uses: flags leaving claims
-- KEYS: hash tag. ARGV: claims, seconds, what to add to the attempts, whether to run alone, and how it failed, if it did. Returns the numbers of the lost.
local hash_tag, due, attempts, alone = KEYS[1], now + tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local lost = {}
for i, id, token in each_claim(ARGV[1]) do
    local state = call('HGET', hash_tag .. ':state', id)
    if is_held(state, token) then
        local s = read(state)
        s.token, s.worker, s.attempt = UNCLAIMED, '', math.max(0, s.attempt + attempts)
        if alone then set(s, ALONE) end
        if ARGV[5] then call('HSET', hash_tag .. ':errors', id, ARGV[5]) end
        call('HSET', hash_tag .. ':state', id, pack(s))
        take_up(hash_tag, id, s)
        put_due(hash_tag, id, s.priority, due)
        if s.expires < never then call('ZADD', hash_tag .. ':expires', s.expires, id) end
    else
        lost[#lost + 1] = i
    end
end
return lost
