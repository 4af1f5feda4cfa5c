-- What all scripts share: the clock, how a message's state is packed, and how it becomes due.
--
-- The keys of a channel begin with its hash tag, `{mailrail:<prefix>:<channel>}`, so that they lie in one slot of a cluster:
--
--   :state          hash   id -> state, see below
--   :body           hash   id -> content and headers, which scripts never look into
--   :levels         zset   priority -> itself: those in use, and some that no longer are
--   :due:<priority> zset   id -> due: what may be claimed then
--   :claimed        zset   id -> end of its lease
--   :held           zset   id -> due: behind another message of its lane
--   :lane:<lane>    zset   id -> place: all of a lane that are not finished
--   :placed:<lane>  zset   id -> 0: of a lane with several places, those that have one
--   :parked:<lane>  zset   id -> due, less what its priority is worth: of a lane with several places, those also in :held
--   :places         string there has been a lane with several places here since the channel was last found empty
--   :errors         hash   id -> how its last run failed, of what waits for the next one, or runs
--   :keys           hash   key -> id, until the message is first claimed
--   :expires        zset   id -> expires, of what is not claimed
--   :paused         hash   since, by, reason: the channel is paused
--   :dead           zset   id -> buried at
--   :dead:<class>   zset   likewise, of those that died of errors of that class
--   :error_class    hash   id -> that class
--   :error_classes  set    those in use
--   :graves         hash   id -> state, body and error of a dead message
--
-- No script may write the key that is the hash tag itself. It stands in KEYS and never exists: so while a slot is moved key by
-- key, a cluster refuses every script on the channel, and none runs on half of it.
--
-- A message stands in exactly one of :due, :claimed and :held. Each function here costs every call of every script a
-- little; what only some need is in files of its own, which they name in their first line.

local call = redis.call
local clock = call('TIME')
local now = clock[1] + clock[2] / 1000000
local never = math.huge
local UNCLAIMED = '\0\0\0\0\0\0\0\0'

-- priority, flags, token, attempt, losses, sent at, expires, place in its lane; key, lane, worker with their lengths.
-- In a lane with several places, the place is their number, below zero.
local STATE = '<bBc8IHdddHc0Hc0Hc0'

-- A flag: what stood here could not be read, so that this is a new state, and the message is to be set aside.
local UNREADABLE = 4
local NO_TEXTS = '\0\0\0\0\0\0'

-- Is it what pack makes? Somebody else, or a fault of the storage, may have cut it or put another thing there.
local function is_whole(state)
    if #state == 46 and state:sub(41) == NO_TEXTS then return true end -- as most are
    local at = 41
    for _ = 1, 3 do
        if #state < at + 1 then return false end
        at = at + 2 + struct.unpack('<H', state, at)
    end
    return at == #state + 1
end

local function new_state(priority, flags)
    return struct.pack(STATE, priority or 0, flags, UNCLAIMED, 0, 0, now, never, 0, 0, '', 0, '', 0, '')
end

local function read(state, priority)
    local s = {}
    if not is_whole(state) then state = new_state(priority, UNREADABLE) end
    s.priority, s.flags, s.token, s.attempt, s.losses, s.sent_at, s.expires, s.place, s.key, s.lane, s.worker =
        struct.unpack(STATE, state)
    return s
end

local function pack(s)
    return struct.pack(STATE, s.priority, s.flags, s.token, s.attempt, s.losses, s.sent_at, s.expires, s.place,
        #s.key, s.key, #s.lane, s.lane, #s.worker, s.worker)
end

-- Subscribers are told of a channel only when they could be waiting for something later: not in a backlog.
local function notify(hash_tag) call('PUBLISH', hash_tag, '') end

local soonest = {} -- by :due key: the first due of it, as far as this script has made sure

-- Returns whether the level was empty.
local function put_due(hash_tag, id, priority, due)
    local key, was_empty = hash_tag .. ':due:' .. priority, false
    due = tonumber(due)
    if not soonest[key] then
        local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
        soonest[key] = tonumber(first[2]) or never
        was_empty = not first[1]
        if was_empty then call('ZADD', hash_tag .. ':levels', priority, priority) end
    end
    call('ZADD', key, due, id)
    if due < soonest[key] then
        if soonest[key] > now then notify(hash_tag) end
        soonest[key] = due
    end
    return was_empty
end
