-- Ids travel one after the other, 16 bytes each.
local function each_id(ids)
    local i = 0
    return function()
        i = i + 1
        if i * 16 <= #ids then return ids:sub(i * 16 - 15, i * 16) end
    end
end
