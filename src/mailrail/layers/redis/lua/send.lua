-- stands alone: what shared.lua and enqueue.lua do, for one message with neither key nor lane, at half the cost.
-- KEYS: hash tag [, channels of this server]. ARGV: channel, a record and a body, as in enqueue.lua.
local call = redis.call
local hash_tag, record = KEYS[1], ARGV[2]
local clock = call('TIME')
local now = clock[1] + clock[2] / 1000000
local RELATIVE_DUE, RELATIVE_EXPIRES = 1, 2

local id, kinds, due, expires, priority, at = struct.unpack('<c16Bddb', record)
if kinds % 2 >= RELATIVE_DUE then due = now + due end
if kinds % 4 >= RELATIVE_EXPIRES then expires = now + expires end
local state = record:sub(at - 1, at + 14) .. struct.pack('<dd', now, expires) .. record:sub(at + 31)
if call('HSETNX', hash_tag .. ':state', id, state) == 0 then return end -- a repeat of an id is harmless

call('HSET', hash_tag .. ':body', id, ARGV[3])
if expires < math.huge then call('ZADD', hash_tag .. ':expires', expires, id) end
local key = hash_tag .. ':due:' .. priority
call('ZADD', key, due, id)
if call('ZRANK', key, id) == 0 then -- else others wait for something earlier, or are at work
    local after = call('ZRANGE', key, 1, 1, 'WITHSCORES')[2]
    if not after then
        call('ZADD', hash_tag .. ':levels', priority, priority)
        if KEYS[2] then call('SADD', KEYS[2], ARGV[1]) end
    end
    if not after or tonumber(after) > now then call('PUBLISH', hash_tag, '') end
end
