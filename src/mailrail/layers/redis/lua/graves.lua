local NOT_READ = 'What was kept of this dead message cannot be read.'

-- What is kept of a dead message: its state, its body, and the error; nothing if there is none of this id.
local function exhume(tag, id)
    local grave = call('HGET', tag .. ':graves', id)
    if not grave then return end
    local is_read, state, body, error = pcall(struct.unpack, '<Ic0Ic0Ic0', grave)
    if is_read and is_whole(state) then return state, body, error end
    return new_state(0, UNREADABLE), '', NOT_READ
end

-- Also under what it died of.
local function remember_dead(tag, id, class)
    call('HSET', tag .. ':error_class', id, class)
    call('SADD', tag .. ':error_classes', class)
    call('ZADD', tag .. ':dead:' .. class, now, id)
    call('ZADD', tag .. ':dead', now, id)
end

local function forget_dead(tag, id)
    local class = call('HGET', tag .. ':error_class', id)
    if class then
        call('HDEL', tag .. ':error_class', id)
        call('ZREM', tag .. ':dead:' .. class, id)
        if call('EXISTS', tag .. ':dead:' .. class) == 0 then call('SREM', tag .. ':error_classes', class) end
    end
    call('HDEL', tag .. ':graves', id)
    return call('ZREM', tag .. ':dead', id) == 1
end
