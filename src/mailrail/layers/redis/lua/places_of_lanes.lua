-- Lanes with several places. Only channels that have had one pay for them.
local MOST_PARKED = 1000 -- by one call
local PRIORITY_WORTH = 1e10 -- more seconds than any due has, and few enough for a score to keep a tenth of a millisecond
local parked = 0
local state_of_placed = {} -- by id, of what this call has found a place for
local taken = {} -- by hash tag and lane: how many places are

-- Those that have a place are claimed. Any other that is listed has lost its lease, or its state.
local function count_taken(hash_tag, lane)
    local key, number = hash_tag .. ':placed:' .. lane, 0
    for _, id in ipairs(call('ZRANGE', key, 0, -1)) do
        if call('ZSCORE', hash_tag .. ':claimed', id) then number = number + 1 else call('ZREM', key, id) end
    end
    return number
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
        local lane = s and s.place < 0 and hash_tag .. ':' .. s.lane
        if lane and not state_of_placed[id] then
            taken[lane] = taken[lane] or count_taken(hash_tag, s.lane)
            if taken[lane] < -s.place then
                taken[lane], state_of_placed[id] = taken[lane] + 1, s
            else
                park(hash_tag, key, id, tonumber(due), s)
                id = nil
            end
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
            call('ZADD', hash_tag .. ':placed:' .. s.lane, 0, id)
            if taken[hash_tag .. ':' .. s.lane] < -s.place then give_place(hash_tag, s.lane) end
        end
    end
end
