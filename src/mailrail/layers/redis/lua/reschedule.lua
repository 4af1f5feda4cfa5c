-- uses: flags leaving claims
-- KEYS: hash tag. ARGV: claims, seconds, what to add to the attempts, whether to run alone, a lane that they are
-- of from now on and its places, or nothing and 0, and how it failed, if it did. Returns the numbers of the lost.
local hash_tag, due, attempts, alone = KEYS[1], now + tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local lost = {}
for i, id, token in each_claim(ARGV[1]) do
    local state = call('HGET', hash_tag .. ':state', id)
    if is_held(state, token) then
        local s = read(state)
        s.token, s.worker, s.attempt = UNCLAIMED, '', math.max(0, s.attempt + attempts)
        if alone then set(s, ALONE) end
        if ARGV[7] then call('HSET', hash_tag .. ':errors', id, ARGV[7]) end
        take_up(hash_tag, id, s)
        if s.place < 0 then leave_lane(hash_tag, id, s) end
        if ARGV[5] ~= '' then
            s.lane, s.place = ARGV[5], -tonumber(ARGV[6])
            call('SET', hash_tag .. ':places', 1)
        end
        call('HSET', hash_tag .. ':state', id, pack(s))
        put_due(hash_tag, id, s.priority, due)
        if s.expires < never then call('ZADD', hash_tag .. ':expires', s.expires, id) end
    else
        lost[#lost + 1] = i
    end
end
return lost
