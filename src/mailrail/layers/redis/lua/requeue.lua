-- uses: dead_bodies ids lanes
-- KEYS: hash tag [, channels of this server]. ARGV: channel, ids. Returns those that were dead.
local hash_tag = KEYS[1]
local found = {}
if KEYS[2] then call('SADD', KEYS[2], ARGV[1]) end -- the last time may be long ago
for id in each_id(ARGV[2]) do
    local state, body = read_dead(hash_tag, id)
    if forget_dead(hash_tag, id) and state then
        found[#found + 1] = id
        if call('HEXISTS', hash_tag .. ':state', id) == 0 then -- else it was sent once more meanwhile
            local s = read(state)
            s.attempt, s.losses, s.expires = 0, math.min(s.losses, 1), never
            put_last(hash_tag, id, s, now)
            call('HSET', hash_tag .. ':state', id, pack(s))
            call('HSET', hash_tag .. ':body', id, body)
        end
    end
end
return found
