-- As Redis orders members of the same score; Lua's own order of strings is that of the server's language.
local function is_before(one, other)
    for n = 1, math.max(#one, #other) do
        local a, b = one:byte(n) or -1, other:byte(n) or -1
        if a ~= b then return a < b end
    end
    return false
end

-- How many members of a sorted set come before a place (a score, and a member among those that have it), or at it.
local function count_to(key, at, id, with_itself)
    local low, high = call('ZCOUNT', key, '-inf', '(' .. at), call('ZCOUNT', key, '-inf', at)
    while low < high do
        local middle = math.floor((low + high) / 2)
        local member = call('ZRANGE', key, middle, middle)[1]
        if is_before(member, id) or (with_itself and member == id) then low = middle + 1 else high = middle end
    end
    return low
end
