-- Claims travel as 24 bytes each: id and token. The token alone decides who holds a message.
local function each_claim(claims)
    local i = 0
    return function()
        i = i + 1
        if i * 24 <= #claims then return i, claims:sub(i * 24 - 23, i * 24 - 8), claims:sub(i * 24 - 7, i * 24) end
    end
end

local function is_held(state, token)
    return state and token ~= UNCLAIMED and state:sub(3, 10) == token
end
