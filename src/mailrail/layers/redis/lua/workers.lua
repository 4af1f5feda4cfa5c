-- KEYS: details of the workers, when each was seen. ARGV: seconds until one is forgotten.
-- Returns for each: its name, its details, and its age, as text.
local rows = {}
local found = call('ZRANGE', KEYS[2], '(' .. string.format('%.17g', now - tonumber(ARGV[1])), '+inf', 'BYSCORE', 'WITHSCORES')
for j = 1, #found, 2 do
    rows[#rows + 1] = { found[j], call('HGET', KEYS[1], found[j]) or '{}', string.format('%.6f', now - found[j + 1]) }
end
return rows
