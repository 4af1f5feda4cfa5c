-- KEYS: a key of history. ARGV: what its keys begin with, seconds. For tests.
local key, base, seconds = KEYS[1], ARGV[1], tonumber(ARGV[2])
local rest = key:sub(#base + 1)
local span, start, series = rest:match('^:(%d+):(%d+):(.*)$')
local minute = rest:match('^:series:(%d+)$')
local left = call('PTTL', key) - seconds * 1000
if minute or span then
    local by = tonumber(span or 60)
    local earlier = string.format('%d', tonumber(start or minute) - math.floor(seconds / by) * by)
    local aged = minute and base .. ':series:' .. earlier or base .. ':' .. span .. ':' .. earlier .. ':' .. series
    if aged ~= key then call('RENAME', key, aged) end
    key = aged
elseif call('TYPE', key).ok == 'zset' then
    local found = call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for j = 1, #found, 2 do call('ZADD', key, found[j + 1] - seconds, found[j]) end
else
    call('HSET', key, 'first_at', string.format('%.17g', call('HGET', key, 'first_at') - seconds))
end
call('PEXPIRE', key, string.format('%d', left))
