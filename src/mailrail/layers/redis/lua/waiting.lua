-- uses: rows places
-- KEYS: tag. ARGV: how many. Returns two strings of each message that nobody has claimed, soonest due first.
local tag, limit = KEYS[1], tonumber(ARGV[1])
local found = {}

local function collect(key)
    local from, left = 0, limit
    repeat
        local part = call('ZRANGE', key, from, from + limit - 1, 'WITHSCORES')
        for j = 1, #part, 2 do
            local state = call('HGET', tag .. ':state', part[j])
            if left > 0 and state and state:sub(3, 10) == UNCLAIMED then -- else its lease is over
                left = left - 1
                found[#found + 1] = { id = part[j], due = tonumber(part[j + 1]), state = state }
            end
        end
        from = from + limit
    until left == 0 or #part < 2 * limit
end

if limit > 0 then
    for _, priority in ipairs(call('ZRANGE', tag .. ':levels', 0, -1)) do collect(tag .. ':due:' .. priority) end
    collect(tag .. ':held')
end
table.sort(found, function(a, b)
    if a.due ~= b.due then return a.due < b.due end
    return is_before(a.id, b.id)
end)
local rows = {}
for n = 1, math.min(#found, limit) do
    append(rows, found[n].due, found[n].id, found[n].state, call('HGET', tag .. ':body', found[n].id))
end
return rows
