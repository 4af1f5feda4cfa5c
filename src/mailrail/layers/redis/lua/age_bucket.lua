-- KEYS: bucket. ARGV: seconds. For tests.
local filled_at = call('HGET', KEYS[1], 'filled_at')
if filled_at then call('HSET', KEYS[1], 'filled_at', string.format('%.17g', filled_at - tonumber(ARGV[1]))) end
