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

-- A message whose state was lost has left a lane whose name was lost with it. Those that wait behind it know the name.
local function leave_unknown_lane(hash_tag, id)
    for _, other in ipairs(call('ZRANGE', hash_tag .. ':held', 0, -1)) do
        local lane = state_of(hash_tag, other).lane
        if lane ~= '' and call('ZREM', hash_tag .. ':lane:' .. lane, id) == 1 then return advance(hash_tag, lane) end
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
        call('ZREM', hash_tag .. ':lane:' .. s.lane, id)
        advance(hash_tag, s.lane)
    elseif is(s, UNREADABLE) then
        call('ZREM', hash_tag .. ':held', id)
        leave_unknown_lane(hash_tag, id)
    end
end
