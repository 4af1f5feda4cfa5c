-- uses: rows places
-- KEYS: hash tag. ARGV: how many, a state or nothing, bytes of a body, and the moment and the id that they come after, or nothing.
-- and bytes of an error. Returns four strings of each message that waits or is claimed, soonest due first: the message's two,
-- its state, and how its last run failed.
local hash_tag, limit, wanted, most, at, after = KEYS[1], tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local most_of_error = tonumber(ARGV[6])
local found = {}

local function collect(key, later)
    local from = at == '' and 0 or count_to(key, at, after, true)
    local to, due = from + limit - 1, call('ZCOUNT', key, '-inf', now)
    if wanted == 'ready' then
        to = math.min(to, due - 1)
    elseif wanted ~= '' and wanted ~= later then
        return
    elseif wanted ~= '' and from < due then
        from, to = due, due + limit - 1
    end
    local part = to >= from and call('ZRANGE', key, from, to, 'WITHSCORES') or {}
    for j = 1, #part, 2 do
        local due = tonumber(part[j + 1])
        found[#found + 1] = { id = part[j], due = due, state = due <= now and 'ready' or later }
    end
end

for _, priority in ipairs(call('ZRANGE', hash_tag .. ':levels', 0, -1)) do collect(hash_tag .. ':due:' .. priority, 'scheduled') end
collect(hash_tag .. ':held', 'scheduled')
collect(hash_tag .. ':claimed', 'claimed')
table.sort(found, function(a, b)
    if a.due ~= b.due then return a.due < b.due end
    return is_before(a.id, b.id)
end)
local rows = {}
for n = 1, math.min(#found, limit) do
    local state = call('HGET', hash_tag .. ':state', found[n].id)
    if state then -- else somebody has taken it: an eviction, a hand
        local body = call('HGET', hash_tag .. ':body', found[n].id) or ''
        append(rows, found[n].due, found[n].id, state, body:sub(1, most))
        rows[#rows + 1] = found[n].state
        rows[#rows + 1] = (call('HGET', hash_tag .. ':errors', found[n].id) or ''):sub(-most_of_error)
    end
end
return rows
