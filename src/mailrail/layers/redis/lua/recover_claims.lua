-- uses: batch
-- KEYS: hash tags. ARGV: tokens one after the other, the new token, seconds of a lease for each hash tag.
-- Returns the claims with one of the tokens, which get the new one, as a batch.
local wanted, found = {}, {}
for from = 1, #ARGV[1], 8 do wanted[ARGV[1]:sub(from, from + 7)] = true end
for i, hash_tag in ipairs(KEYS) do
    for _, id in ipairs(call('ZRANGE', hash_tag .. ':claimed', 0, -1)) do
        local state = call('HGET', hash_tag .. ':state', id)
        if state and wanted[state:sub(3, 10)] then
            local ends = now + tonumber(ARGV[2 + i])
            state = state:sub(1, 2) .. ARGV[2] .. state:sub(11)
            call('HSET', hash_tag .. ':state', id, state)
            call('ZADD', hash_tag .. ':claimed', ends, id)
            pack_message(found, i, ends, id, state, call('HGET', hash_tag .. ':body', id))
        end
    end
end
return table.concat(found)
