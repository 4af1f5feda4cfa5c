-- uses: ids
-- KEYS: tag. ARGV: ids. Returns those that wait or are claimed.
local found = {}
for id in each_id(ARGV[1]) do
    if call('HEXISTS', KEYS[1] .. ':state', id) == 1 then found[#found + 1] = id end
end
return found
