-- Forgets the claims that are still held; returns the numbers of the others, which are lost.
local NOWHERE = '\0\0\0\0\0\0\0\0' -- the place of a message without a lane

local function finish(hash_tag, claims)
    local ids, tokens, lost, gone, states = {}, {}, {}, {}, {}
    for i, id, token in each_claim(claims) do ids[i], tokens[i] = id, token end
    for i, state in ipairs(values(hash_tag .. ':state', ids)) do
        if is_held(state, tokens[i]) then
            gone[#gone + 1] = ids[i]
            states[#states + 1] = state
        else
            lost[#lost + 1] = i
        end
    end
    with_all('HDEL', hash_tag .. ':state', gone)
    with_all('HDEL', hash_tag .. ':body', gone)
    with_all('HDEL', hash_tag .. ':errors', gone)
    local are_leased = with_all('ZREM', hash_tag .. ':claimed', gone) == #gone
    for i, id in ipairs(gone) do
        if not are_leased or states[i]:sub(33, 40) ~= NOWHERE then
            local s = read(states[i])
            if not are_leased then take_up(hash_tag, id, s) end
            if s.lane ~= '' then leave_lane(hash_tag, id, s) end
        end
    end
    return lost
end
