-- KEYS: hash tags. Returns the seconds until the first is due, as text, or nothing.
local first = never
for _, hash_tag in ipairs(KEYS) do
    pcall(function() -- a key of another type stops its own channel only: claim.lua says so
        if call('EXISTS', hash_tag .. ':paused') == 1 then return end
        local keys = { hash_tag .. ':claimed' }
        for _, priority in ipairs(call('ZRANGE', hash_tag .. ':levels', 0, -1)) do
            keys[#keys + 1] = hash_tag .. ':due:' .. priority
        end
        for _, key in ipairs(keys) do
            first = math.min(first, tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) or never)
        end
    end)
end
return first < never and string.format('%.6f', math.max(0, first - now))
