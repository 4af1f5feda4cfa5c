-- uses: parcel
-- KEYS: tags. ARGV: tokens one after the other, the new token, seconds of a lease for each tag.
-- Returns the claims with one of the tokens, which get the new one, as a parcel.
local wanted, found = {}, {}
for from = 1, #ARGV[1], 8 do wanted[ARGV[1]:sub(from, from + 7)] = true end
for i, tag in ipairs(KEYS) do
    for _, id in ipairs(call('ZRANGE', tag .. ':claimed', 0, -1)) do
        local state = call('HGET', tag .. ':state', id)
        if state and wanted[state:sub(3, 10)] then
            local ends = now + tonumber(ARGV[2 + i])
            state = state:sub(1, 2) .. ARGV[2] .. state:sub(11)
            call('HSET', tag .. ':state', id, state)
            call('ZADD', tag .. ':claimed', ends, id)
            wrap(found, i, ends, id, state, call('HGET', tag .. ':body', id))
        end
    end
end
return table.concat(found)
