-- KEYS: bucket. ARGV: n, count, seconds. Returns the tokens granted, and the seconds until the next, as text.
local bucket, n, count, seconds = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local speed = count / seconds
local kept = redis.pcall('HMGET', bucket, 'tokens', 'filled_at')
if kept.err then -- another type, by another hand: a full bucket is the same as none
    call('DEL', bucket)
    kept = {}
end
local elapsed = math.max(0, now - (tonumber(kept[2]) or now))
local tokens = math.min(count, (tonumber(kept[1]) or count) + elapsed * speed)
local granted = n < 0 and n or math.min(n, math.floor(tokens + 1e-9))
tokens = math.min(count, tokens - granted)
call('HSET', bucket, 'tokens', string.format('%.17g', tokens), 'filled_at', string.format('%.17g', now))
-- A full bucket is the same as none.
call('PEXPIRE', bucket, math.ceil((count - tokens) / speed * 1000) + 60000)
return { granted, string.format('%.6f', granted == n and 0 or math.max(0, 1 - tokens) / speed) }
