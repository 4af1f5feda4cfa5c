-- The state of a message, also of one that somebody has taken it from (an eviction, a hand): as if it were new.
local function state_of(hash_tag, id, priority)
    return read(call('HGET', hash_tag .. ':state', id) or new_state(priority, 0), priority)
end

-- Out of :due or :claimed. A lease that is over stands in either.
local function take_up(hash_tag, id, s)
    if call('ZREM', hash_tag .. ':claimed', id) == 0 then call('ZREM', hash_tag .. ':due:' .. s.priority, id) end
    if s.expires < never then call('ZREM', hash_tag .. ':expires', id) end
end

local function free_key(hash_tag, s)
    if is(s, KEYED) then
        clear(s, KEYED)
        call('HDEL', hash_tag .. ':keys', s.key)
    end
end

-- A message has left its lane: the next one may be claimed.
local function advance(hash_tag, lane)
    local head = call('ZRANGE', hash_tag .. ':lane:' .. lane, 0, 0)[1]
    local due = head and call('ZSCORE', hash_tag .. ':held', head)
    if due then
        call('ZREM', hash_tag .. ':held', head)
        put_due(hash_tag, head, state_of(hash_tag, head).priority, due)
    end
end

-- A place of a lane with several is free: the best of those parked becomes due, and a claim decides again.
local function give_place(hash_tag, lane)
    local next = call('ZRANGE', hash_tag .. ':parked:' .. lane, 0, 0)[1]
    if not next then return end
    local due = call('ZSCORE', hash_tag .. ':held', next) or now
    call('ZREM', hash_tag .. ':parked:' .. lane, next)
    call('ZREM', hash_tag .. ':held', next)
    if call('HEXISTS', hash_tag .. ':state', next) == 0 then return give_place(hash_tag, lane) end -- somebody has taken it
    put_due(hash_tag, next, state_of(hash_tag, next).priority, due)
end

-- Out of its lane, and the next one of that may be claimed.
local function leave_lane(hash_tag, id, s)
    if s.place >= 0 then
        call('ZREM', hash_tag .. ':lane:' .. s.lane, id)
        return advance(hash_tag, s.lane)
    end
    call('ZREM', hash_tag .. ':placed:' .. s.lane, id)
    if call('ZREM', hash_tag .. ':parked:' .. s.lane, id) == 0 then
        give_place(hash_tag, s.lane)
    else
        call('ZREM', hash_tag .. ':held', id)
    end
end

-- A message whose state was lost has left a lane whose name was lost with it. Those that wait behind it know the name.
local function leave_unknown_lane(hash_tag, id)
    for _, other in ipairs(call('ZRANGE', hash_tag .. ':held', 0, -1)) do
        local s = state_of(hash_tag, other)
        local names = s.place < 0 and ':placed:' or ':lane:'
        if s.lane ~= '' and call('ZREM', hash_tag .. names .. s.lane, id) == 1 then
            return (s.place < 0 and give_place or advance)(hash_tag, s.lane)
        end
    end
end

-- Forget a message that waits or is claimed.
local function remove(hash_tag, id, s)
    call('HDEL', hash_tag .. ':state', id)
    call('HDEL', hash_tag .. ':body', id)
    call('HDEL', hash_tag .. ':errors', id)
    take_up(hash_tag, id, s)
    free_key(hash_tag, s)
    if s.lane ~= '' then
        call('ZREM', hash_tag .. ':held', id)
        leave_lane(hash_tag, id, s)
    elseif is(s, UNREADABLE) then
        call('ZREM', hash_tag .. ':held', id)
        leave_unknown_lane(hash_tag, id)
    end
end
