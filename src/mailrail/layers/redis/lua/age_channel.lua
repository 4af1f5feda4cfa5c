-- KEYS: hash tag. ARGV: seconds. Moves all times of a channel back. For tests.
local hash_tag, seconds = KEYS[1], tonumber(ARGV[1])

local function older(key)
    local found = call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for j = 1, #found, 2 do call('ZADD', key, found[j + 1] - seconds, found[j]) end
end

local function older_state(state)
    local s = read(state)
    s.sent_at, s.expires = s.sent_at - seconds, s.expires - seconds
    return pack(s)
end

if call('EXISTS', hash_tag .. ':paused') == 1 then call('HINCRBYFLOAT', hash_tag .. ':paused', 'since', -seconds) end
for _, suffix in ipairs({ ':claimed', ':held', ':expires', ':dead' }) do older(hash_tag .. suffix) end
for _, priority in ipairs(call('ZRANGE', hash_tag .. ':levels', 0, -1)) do older(hash_tag .. ':due:' .. priority) end
for _, class in ipairs(call('SMEMBERS', hash_tag .. ':error_classes')) do older(hash_tag .. ':dead:' .. class) end
local states = call('HGETALL', hash_tag .. ':state')
for j = 1, #states, 2 do call('HSET', hash_tag .. ':state', states[j], older_state(states[j + 1])) end
local dead_bodies = call('HGETALL', hash_tag .. ':graves')
for j = 1, #dead_bodies, 2 do
    local state, body, error = struct.unpack('<Ic0Ic0Ic0', dead_bodies[j + 1])
    state = older_state(state)
    call('HSET', hash_tag .. ':graves', dead_bodies[j],
        struct.pack('<Ic0Ic0Ic0', #state, state, #body, body, #error, error))
end
notify(hash_tag)
