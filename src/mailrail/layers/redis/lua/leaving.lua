-- The state of a message, also of one that somebody has taken it from (an eviction, a hand): as if it were new.
local function state_of(tag, id, priority)
    return read(call('HGET', tag .. ':state', id) or new_state(priority, 0), priority)
end

-- Out of :due or :claimed. A lease that is over stands in either.
local function take_up(tag, id, s)
    if call('ZREM', tag .. ':claimed', id) == 0 then call('ZREM', tag .. ':due:' .. s.priority, id) end
    if s.expires < never then call('ZREM', tag .. ':expires', id) end
end

local function free_key(tag, s)
    if is(s, KEYED) then
        clear(s, KEYED)
        call('HDEL', tag .. ':keys', s.key)
    end
end

-- A message has left its lane: the next one may be claimed.
local function advance(tag, lane)
    local head = call('ZRANGE', tag .. ':lane:' .. lane, 0, 0)[1]
    local due = head and call('ZSCORE', tag .. ':held', head)
    if due then
        call('ZREM', tag .. ':held', head)
        put_due(tag, head, state_of(tag, head).priority, due)
    end
end

-- A message whose state was lost has left a lane whose name was lost with it. Those that wait behind it know the name.
local function leave_unknown_lane(tag, id)
    for _, other in ipairs(call('ZRANGE', tag .. ':held', 0, -1)) do
        local lane = state_of(tag, other).lane
        if lane ~= '' and call('ZREM', tag .. ':lane:' .. lane, id) == 1 then return advance(tag, lane) end
    end
end

-- Forget a message that waits or is claimed.
local function remove(tag, id, s)
    call('HDEL', tag .. ':state', id)
    call('HDEL', tag .. ':body', id)
    call('HDEL', tag .. ':errors', id)
    take_up(tag, id, s)
    free_key(tag, s)
    if s.lane ~= '' then
        call('ZREM', tag .. ':held', id)
        call('ZREM', tag .. ':lane:' .. s.lane, id)
        advance(tag, s.lane)
    elseif is(s, UNREADABLE) then
        call('ZREM', tag .. ':held', id)
        leave_unknown_lane(tag, id)
    end
end
