-- uses: flags leaving ids
-- KEYS: hash tag. ARGV: ids. Returns those that nobody had claimed, and that are gone now.
local hash_tag = KEYS[1]
local found = {}
for id in each_id(ARGV[1]) do
    local state = call('HGET', hash_tag .. ':state', id)
    if state and state:sub(3, 10) == UNCLAIMED then
        remove(hash_tag, id, read(state))
        found[#found + 1] = id
    end
end
return found
