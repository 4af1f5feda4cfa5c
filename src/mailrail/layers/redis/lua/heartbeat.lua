-- KEYS: details of the workers, when each was seen. ARGV: worker, details ('': deregister it), seconds until one is forgotten.
local details, seen = KEYS[1], KEYS[2]
for _, gone in ipairs(call('ZRANGE', seen, '-inf', now - tonumber(ARGV[3]), 'BYSCORE')) do call('HDEL', details, gone) end
call('ZREMRANGEBYSCORE', seen, '-inf', now - tonumber(ARGV[3]))
if ARGV[2] == '' then
    call('HDEL', details, ARGV[1])
    call('ZREM', seen, ARGV[1])
else
    call('HSET', details, ARGV[1], ARGV[2])
    call('ZADD', seen, now, ARGV[1])
end
