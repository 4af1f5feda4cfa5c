-- Lua hands on some thousands of arguments at once.
local AT_ONCE = 4000

local function with_all(command, key, arguments)
    local sum = 0
    for from = 1, #arguments, AT_ONCE do
        sum = sum + call(command, key, unpack(arguments, from, math.min(from + AT_ONCE - 1, #arguments)))
    end
    return sum
end

local function values(key, fields)
    if #fields == 0 then return {} end
    if #fields <= AT_ONCE then return call('HMGET', key, unpack(fields)) end
    local found = {}
    for from = 1, #fields, AT_ONCE do
        for _, value in ipairs(call('HMGET', key, unpack(fields, from, math.min(from + AT_ONCE - 1, #fields)))) do
            found[#found + 1] = value
        end
    end
    return found
end
