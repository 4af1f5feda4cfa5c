-- uses: flags leaving claims many finishing places_of_lanes batch
-- KEYS: hash tags. ARGV: worker, token, total, then for each hash tag: room, seconds of a lease, finished claims.
-- Returns lost (number of the hash tag, number of the claim), claims and expired ones (a batch each), and whether more has
-- expired, or was parked, than one call does: then nothing was claimed, and it is to be called again; what could not be looked
-- at: number of the hash tag, and why; and for how many seconds each of the claims had been due, as doubles.
local worker, token, total = ARGV[1], ARGV[2], tonumber(ARGV[3])
local MOST_EXPIRED = 1000
local lost, expired = {}, {}
local is_cut_short = 0
local until_now = string.format('%.17g', now) -- each command would turn the number into the same text

-- Returns the ids that stay: whoever has them, they are not to be leased by this call.
local function settle(i, hash_tag, finished)
    local stay = { number = 0 }
    for _, number in ipairs(finish(hash_tag, finished)) do
        lost[#lost + 1] = i
        lost[#lost + 1] = number
        stay[finished:sub(number * 24 - 23, number * 24 - 8)] = true
        stay.number = stay.number + 1
    end
    return stay
end

-- Leases that are over: due again, at that moment. The token stays, and tells whoever claims it next of a loss.
local function lapse(hash_tag)
    local over = call('ZRANGE', hash_tag .. ':claimed', '-inf', until_now, 'BYSCORE', 'WITHSCORES')
    for j = 1, #over, 2 do
        local s = state_of(hash_tag, over[j])
        put_due(hash_tag, over[j], s.priority, over[j + 1])
        if s.expires < never then call('ZADD', hash_tag .. ':expires', s.expires, over[j]) end
        call('ZREM', hash_tag .. ':claimed', over[j])
    end
end

-- Something that is no id, which clients could not read: it gets one, so that it is set aside as a message is.
local function made_up(hash_tag, key, odd, due)
    local hex = redis.sha1hex(odd):sub(1, 32)
    local id = hex:gsub('..', function(two) return string.char(tonumber(two, 16)) end)
    call('ZREM', key, odd)
    call('ZADD', key, due, id)
    call('HSET', hash_tag .. ':state', id, new_state(0, UNREADABLE))
    return id
end

local function expire(i, hash_tag)
    local over = call('ZRANGE', hash_tag .. ':expires', '-inf', until_now, 'BYSCORE', 'LIMIT', 0, MOST_EXPIRED)
    for _, id in ipairs(over) do
        if #id ~= 16 then id = made_up(hash_tag, hash_tag .. ':expires', id, now) end
        local s = state_of(hash_tag, id)
        pack_message(expired, i, s.expires, id, pack(s), call('HGET', hash_tag .. ':body', id))
        remove(hash_tag, id, s)
        call('ZREM', hash_tag .. ':expires', id)
    end
    if #over == MOST_EXPIRED then is_cut_short = 1 end
end

-- Due messages, highest priority first, then oldest due, then lowest id.
local function choose(i, hash_tag, room, chosen, stay)
    for _, priority in ipairs(call('ZRANGE', hash_tag .. ':levels', 0, -1, 'REV')) do
        local key = hash_tag .. ':due:' .. priority
        local found = room > 0 and tonumber(priority) and
            due_with_places(hash_tag, key, until_now, room + stay.number) or {}
        for j = 1, #found, 2 do
            if room > 0 and not stay[found[j]] then
                room = room - 1
                if #found[j] ~= 16 then found[j] = made_up(hash_tag, key, found[j], found[j + 1]) end
                chosen[#chosen + 1] =
                    { i = i, id = found[j], level = priority, due = found[j + 1], state = '', body = '', ends = 0 }
            end
        end
        if #found == 0 and call('EXISTS', key) == 0 then call('ZREM', hash_tag .. ':levels', priority) end
    end
    -- Whoever sends to a lane with several places sets it again.
    if #chosen == 0 and call('EXISTS', hash_tag .. ':state') == 0 then call('DEL', hash_tag .. ':places') end
end

local function is_before(a, b)
    if a.level ~= b.level then return tonumber(a.level) > tonumber(b.level) end
    if a.due ~= b.due then return tonumber(a.due) < tonumber(b.due) end
    for n = 1, 16 do -- as in places.lua
        local one, other = a.id:byte(n), b.id:byte(n)
        if one ~= other then return one < other end
    end
    return false
end

-- The state of a message that is claimed: one more attempt, or, if its last lease lapsed, one more loss.
local mine = struct.pack('<Hc0', #worker, worker)
local function claimed(hash_tag, id, state, level)
    local flags, attempt, expires = 0, 0, never
    local is_good = state and is_whole(state)
    if is_good then flags, attempt, expires = struct.unpack('<xBxxxxxxxxIxxxxxxxxxxd', state) end
    if is_good and flags < KEYED and expires == never and state:sub(3, 10) == UNCLAIMED then -- as most are
        return state:sub(1, 2) .. token .. struct.pack('<I', attempt + 1) .. state:sub(15, -3) .. mine
    end
    local s = state and read(state, tonumber(level)) or state_of(hash_tag, id, tonumber(level))
    if s.token == UNCLAIMED then s.attempt = s.attempt + 1 else s.losses = s.losses + 1 end
    s.token, s.worker = token, worker
    free_key(hash_tag, s)
    if s.expires < never then call('ZREM', hash_tag .. ':expires', id) end
    return pack(s)
end

-- Lease what was chosen of one channel.
local function lease(hash_tag, seconds, chosen)
    local ids, states, leases, started = {}, {}, {}, {}
    local ends = string.format('%.17g', now + seconds)
    for n, c in ipairs(chosen) do
        ids[n] = c.id
        local of_level = started[c.level] or {}
        started[c.level], of_level[#of_level + 1] = of_level, c.id
    end
    local bodies = values(hash_tag .. ':body', ids)
    for n, state in ipairs(values(hash_tag .. ':state', ids)) do
        local c = chosen[n]
        c.state, c.body, c.ends = claimed(hash_tag, c.id, state, c.level), bodies[n], now + seconds
        states[2 * n - 1], states[2 * n] = c.id, c.state
        leases[2 * n - 1], leases[2 * n] = ends, c.id
    end
    for level, of_level in pairs(started) do with_all('ZREM', hash_tag .. ':due:' .. level, of_level) end
    with_all('HSET', hash_tag .. ':state', states)
    with_all('ZADD', hash_tag .. ':claimed', leases)
    take_places(hash_tag, ids)
end

local open, stay, broken = {}, {}, {}

-- Where one of a channel's keys is of another type, only that channel stops. Nothing has been leased then: what is looked at
-- before is all that a lease changes.
local function try(i, action)
    local is_done, why = pcall(action)
    if not is_done then
        broken[#broken + 1] = i
        broken[#broken + 1] = type(why) == 'table' and why.err or tostring(why)
    end
    return is_done
end

for i, hash_tag in ipairs(KEYS) do
    local room, finished, before = tonumber(ARGV[3 * i + 1]), ARGV[3 * i + 3], #lost
    local is_settled = try(i, function()
        stay[i] = settle(i, hash_tag, finished)
        if room > 0 and total > 0 and call('EXISTS', hash_tag .. ':paused') == 0 then
            lapse(hash_tag)
            expire(i, hash_tag)
            open[#open + 1] = i
        end
    end)
    for number = 1, is_settled and 0 or #finished / 24 do
        lost[before + 2 * number - 1], lost[before + 2 * number] = i, number
    end
end

local claims = {}
if is_cut_short == 0 then
    local chosen, by_channel = {}, {}
    for _, i in ipairs(open) do
        local of_channel = {}
        local is_done = try(i, function()
            choose(i, KEYS[i], math.min(tonumber(ARGV[3 * i + 1]), total), of_channel, stay[i])
            for _, key in ipairs({ ':body', ':state', ':errors', ':keys' }) do call('HLEN', KEYS[i] .. key) end
        end)
        for _, c in ipairs(is_done and of_channel or {}) do chosen[#chosen + 1] = c end
    end
    -- Only parked so far: the next call goes on.
    if #chosen == 0 and parked >= MOST_PARKED then is_cut_short = 1 end
    if #open > 1 then table.sort(chosen, is_before) end
    for n = 1, math.min(#chosen, total) do
        local c = chosen[n]
        local of_channel = by_channel[c.i] or {}
        claims[n], by_channel[c.i], of_channel[#of_channel + 1] = c, of_channel, c
    end
    for i, of_channel in pairs(by_channel) do lease(KEYS[i], tonumber(ARGV[3 * i + 2]), of_channel) end
end

local parts, waits = {}, {}
for n, c in ipairs(claims) do
    pack_message(parts, c.i, c.ends, c.id, c.state, c.body)
    waits[n] = struct.pack('<d', now - tonumber(c.due))
end
return { lost, table.concat(parts), table.concat(expired), is_cut_short, broken, table.concat(waits) }
