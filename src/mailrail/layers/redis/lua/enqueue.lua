-- uses: lanes
-- KEYS: hash tag [, channels of this server]. ARGV: channel, then a record and a body for each message.
-- A record: id, kinds, due, expires, state. Returns, for duplicates, the number of the message and the id of the one that waits.
local hash_tag = KEYS[1]
local state_key, body_key = hash_tag .. ':state', hash_tag .. ':body'
local RELATIVE_DUE, RELATIVE_EXPIRES, ORDERED = 1, 2, 4
local duplicates, is_new = {}, false

-- What waits under a key, and its state; nothing if that is gone without having freed it: an eviction, a hand.
local function waiting_under(key)
    local id = key ~= '' and call('HGET', hash_tag .. ':keys', key)
    local state = id and call('HGET', state_key, id)
    local s = state and read(state)
    if s and s.key == key and s.token == UNCLAIMED then return id, s end
end

-- The earlier due and the later expiry of the two.
local function merge(id, s, due, expires)
    if call('ZSCORE', hash_tag .. ':held', id) then
        call('ZADD', hash_tag .. ':held', 'LT', due, id)
    elseif due < tonumber(call('ZSCORE', hash_tag .. ':due:' .. s.priority, id) or never) then
        put_due(hash_tag, id, s.priority, due)
    end
    if expires > s.expires then
        s.expires = expires
        call('HSET', state_key, id, pack(s))
        if expires == never then
            call('ZREM', hash_tag .. ':expires', id)
        else
            call('ZADD', hash_tag .. ':expires', expires, id)
        end
    end
end

-- With a key, a lane, or both. Returns the id of what waits under its key.
local function store_in_order(id, state, due, expires)
    local KEYED = 2 -- as in flags.lua
    local s = read(state)
    local waiting_id, waiting = waiting_under(s.key)
    if waiting_id then
        merge(waiting_id, waiting, due, expires)
        return waiting_id
    end
    if s.key ~= '' then
        s.flags = s.flags + KEYED
        call('HSET', hash_tag .. ':keys', s.key, id)
    end
    s.sent_at, s.expires = now, expires
    is_new = put_last(hash_tag, id, s, due) or is_new
    call('HSET', state_key, id, pack(s))
    return id
end

for i = 2, #ARGV, 2 do
    local record = ARGV[i]
    local id, kinds, due, expires, priority, at = struct.unpack('<c16Bddb', record)
    if kinds % 2 >= RELATIVE_DUE then due = now + due end
    if kinds % 4 >= RELATIVE_EXPIRES then expires = now + expires end
    local stored = id
    if kinds >= ORDERED then
        -- A repeat of an id is harmless, here and below.
        stored = call('HEXISTS', state_key, id) == 0 and store_in_order(id, record:sub(at - 1), due, expires)
    elseif call('HSETNX', state_key, id, record:sub(at - 1, at + 14) .. struct.pack('<dd', now, expires) .. record:sub(at + 31)) == 1 then
        is_new = put_due(hash_tag, id, priority, due) or is_new
    else
        stored = false
    end
    if stored == id then
        call('HSET', body_key, id, ARGV[i + 1])
        if expires < never then call('ZADD', hash_tag .. ':expires', expires, id) end
    elseif stored then
        duplicates[#duplicates + 1] = i / 2
        duplicates[#duplicates + 1] = stored
    end
end

if is_new and KEYS[2] then call('SADD', KEYS[2], ARGV[1]) end
return duplicates
