-- uses: claims
-- KEYS: hash tag. ARGV: claims, seconds of a lease. Returns the numbers of the lost ones.
local hash_tag, seconds = KEYS[1], tonumber(ARGV[2])
local lost = {}
for i, id, token in each_claim(ARGV[1]) do
    local state = call('HGET', hash_tag .. ':state', id)
    if not is_held(state, token) then
        lost[#lost + 1] = i
    elseif call('ZADD', hash_tag .. ':claimed', now + seconds, id) == 1 then -- it was over, and the message due
        local s = read(state)
        call('ZREM', hash_tag .. ':due:' .. s.priority, id)
        if s.place < 0 then -- it may have lost its place by then
            call('ZREM', hash_tag .. ':held', id)
            call('ZREM', hash_tag .. ':parked:' .. s.lane, id)
            call('ZADD', hash_tag .. ':placed:' .. s.lane, 0, id)
        end
        call('ZREM', hash_tag .. ':expires', id)
    end
end
if seconds <= 0 then notify(hash_tag) end
return lost
