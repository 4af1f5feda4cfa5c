-- KEYS: details of the workers, when each was seen. ARGV: seconds. For tests.
local found = call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
for j = 1, #found, 2 do call('ZADD', KEYS[2], found[j + 1] - tonumber(ARGV[1]), found[j]) end
