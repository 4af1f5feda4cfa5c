-- uses: ids
-- KEYS: hash tag. ARGV: ids. Returns those that wait, are claimed, or are dead.
local found = {}
for id in each_id(ARGV[1]) do
    if call('HEXISTS', KEYS[1] .. ':state', id) == 1 or call('HEXISTS', KEYS[1] .. ':graves', id) == 1 then
        found[#found + 1] = id
    end
end
return found
