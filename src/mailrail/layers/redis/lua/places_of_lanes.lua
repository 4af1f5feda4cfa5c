-- Lanes with several places. Only channels that have had one pay for them.
local MOST_PARKED = 1000 -- by one call
local PRIORITY_WORTH = 1e10 -- more seconds than any due has, and few enough for a score to keep a tenth of a millisecond
local parked = 0
local state_of_placed = {} -- by id, of what this call has found a place for
local taken = {} -- by :placed key: how many places are, at most
local is_exact = {} -- by :placed key, once no more than these are

-- Those that have a place are claimed. Any other that is listed has lost its lease, or its state. Returns how many these were.
local function unlist_others(hash_tag, key)
    local number = call('ZCARD', key) - call('ZINTERCARD', 2, key, hash_tag .. ':claimed')
    for _, id in ipairs(number > 0 and call('ZRANGE', key, 0, -1) or {}) do
        if not call('ZSCORE', hash_tag .. ':claimed', id) then call('ZREM', key, id) end
    end
    return number
end

-- Returns whether its lane has a place for a message that is due, and has none, or has lost it with its lease.
local function find_place(hash_tag, id, s)
    local key = hash_tag .. ':placed:' .. s.lane
    local listed = call('ZREM', key, id)
    taken[key] = taken[key] and taken[key] - listed or call('ZCARD', key)
    if taken[key] >= -s.place and not is_exact[key] then -- each holder is looked at only here
        taken[key], is_exact[key] = taken[key] - unlist_others(hash_tag, key), true
    end
    if taken[key] >= -s.place then return false end
    taken[key], state_of_placed[id] = taken[key] + 1, s
    return true
end

local function park(hash_tag, key, id, due, s)
    -- Should one of these keys be of another type, the first command fails: then the message stays where it is.
    call('ZADD', hash_tag .. ':parked:' .. s.lane, string.format('%.17g', due - s.priority * PRIORITY_WORTH), id)
    call('ZADD', hash_tag .. ':held', due, id)
    call('ZREM', key, id)
    parked = parked + 1
end

-- Returns the ids, with their dues, that may be claimed; what finds no place in its lane is put out of the way.
local function place(hash_tag, key, found)
    local ids, free = {}, {}
    for j = 1, #found, 2 do ids[#ids + 1] = found[j] end
    for n, state in ipairs(values(hash_tag .. ':state', ids)) do
        local id, due, s = ids[n], found[2 * n], state and read(state)
        if s and s.place < 0 and not state_of_placed[id] and not find_place(hash_tag, id, s) then
            park(hash_tag, key, id, tonumber(due), s)
            id = nil
        end
        if id then free[#free + 1], free[#free + 2] = id, due end
    end
    return free
end

-- What is due, as many as are wanted, less what finds no place in its lane.
local function due_with_places(hash_tag, key, until_now, wanted)
    local has_places = call('EXISTS', hash_tag .. ':places') == 1
    while true do
        local found = call('ZRANGE', key, '-inf', until_now, 'BYSCORE', 'LIMIT', 0, wanted, 'WITHSCORES')
        if not has_places then return found end
        local before = parked
        local free = place(hash_tag, key, found)
        if parked == before or parked >= MOST_PARKED then return free end
    end
end

-- What was found a place for is leased now. Where places are left, as their number has grown, one more may try.
local function take_places(hash_tag, ids)
    for _, id in ipairs(ids) do
        local s = state_of_placed[id]
        if s then
            local key = hash_tag .. ':placed:' .. s.lane
            call('ZADD', key, 0, id)
            if taken[key] < -s.place then give_place(hash_tag, s.lane) end
        end
    end
end
