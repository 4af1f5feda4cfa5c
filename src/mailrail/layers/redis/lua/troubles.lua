-- KEYS: what the keys of history begin with. ARGV: since.
-- Returns for each group: kind, name, what (as it is stored), count, buried, first and last moment.
local rows = {}
local found = call('ZRANGE', KEYS[1] .. ':troubles', ARGV[1], '+inf', 'BYSCORE', 'WITHSCORES')
for j = 1, #found, 2 do
    local key = KEYS[1] .. ':trouble:' .. found[j]
    local row = call('HMGET', key, 'kind', 'name', 'what', 'count', 'buried', 'first_at')
    row[7] = found[j + 1]
    if row[1] then rows[#rows + 1] = row end
end
return rows
