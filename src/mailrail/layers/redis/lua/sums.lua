-- Sums of hashes of history: counts are added up, of the longest wait the longest counts.
local function add_up(sums, found)
    for j = 1, #found, 2 do
        local name, number = found[j], tonumber(found[j + 1]) or 0
        if name == 'longest_wait' then
            sums[name] = math.max(sums[name] or 0, number)
        else
            sums[name] = (sums[name] or 0) + number
        end
    end
end

local function flat(sums)
    local parts = {}
    for name, number in pairs(sums) do
        parts[#parts + 1] = name
        parts[#parts + 1] = string.format('%.17g', number)
    end
    return parts
end
