-- uses: dead_bodies
-- KEYS: hash tag. ARGV: how many messages to look at, of each kind, from the front.
-- Returns names of keys that are of another type, as text; then how many messages and how many dead ones cannot be read.
local hash_tag, most = KEYS[1], tonumber(ARGV[1])
local TYPES = {
    [':state'] = 'hash', [':body'] = 'hash', [':levels'] = 'zset', [':claimed'] = 'zset', [':held'] = 'zset',
    [':errors'] = 'hash', [':keys'] = 'hash', [':expires'] = 'zset', [':dead'] = 'zset', [':error_class'] = 'hash', [':error_classes'] = 'set',
    [':graves'] = 'hash',
}
local odd, messages, dead = {}, 0, 0

local function is_of(name, kind)
    local found = call('TYPE', hash_tag .. name).ok
    local is_right = found == 'none' or found == kind
    if not is_right then odd[#odd + 1] = name end
    return is_right
end

local function count(name)
    if not is_of(name, 'zset') then return end
    for _, id in ipairs(call('ZRANGE', hash_tag .. name, 0, most - 1)) do
        local state = call('HGET', hash_tag .. ':state', id)
        if #id ~= 16 or (state and not is_whole(state)) then messages = messages + 1 end
    end
end

for name, kind in pairs(TYPES) do is_of(name, kind) end
if #odd == 0 then
    for _, priority in ipairs(call('ZRANGE', hash_tag .. ':levels', 0, -1)) do count(':due:' .. priority) end
    count(':claimed')
    count(':held')
    for _, id in ipairs(call('ZRANGE', hash_tag .. ':dead', 0, most - 1)) do
        local _, _, error = read_dead(hash_tag, id)
        if not error or error == NOT_READ then dead = dead + 1 end
    end
end
table.sort(odd)
return { table.concat(odd, ', '), messages, dead }
