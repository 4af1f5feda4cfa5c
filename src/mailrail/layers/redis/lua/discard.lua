-- uses: dead_bodies ids
-- KEYS: hash tag. ARGV: ids. Returns those that were dead.
local found = {}
for id in each_id(ARGV[1]) do
    if forget_dead(KEYS[1], id) then found[#found + 1] = id end
end
return found
