local NOT_READ = 'What was kept of this dead message cannot be read.'

-- What is kept of a dead message: its state, its body, and the error; nothing if there is none of this id.
local function read_dead(hash_tag, id)
    local stored = call('HGET', hash_tag .. ':graves', id)
    if not stored then return end
    local is_read, state, body, error = pcall(struct.unpack, '<Ic0Ic0Ic0', stored)
    if is_read and is_whole(state) then return state, body, error end
    return new_state(0, UNREADABLE), '', NOT_READ
end

-- Also under what it died of.
local function remember_dead(hash_tag, id, class)
    call('HSET', hash_tag .. ':error_class', id, class)
    call('SADD', hash_tag .. ':error_classes', class)
    call('ZADD', hash_tag .. ':dead:' .. class, now, id)
    call('ZADD', hash_tag .. ':dead', now, id)
end

local function forget_dead(hash_tag, id)
    local class = call('HGET', hash_tag .. ':error_class', id)
    if class then
        call('HDEL', hash_tag .. ':error_class', id)
        call('ZREM', hash_tag .. ':dead:' .. class, id)
        if call('EXISTS', hash_tag .. ':dead:' .. class) == 0 then call('SREM', hash_tag .. ':error_classes', class) end
    end
    call('HDEL', hash_tag .. ':graves', id)
    return call('ZREM', hash_tag .. ':dead', id) == 1
end
