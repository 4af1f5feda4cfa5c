-- KEYS: tag. Returns 1 if a claim would find or drop something. Writes nothing.
local tag = KEYS[1]
if call('EXISTS', tag .. ':paused') == 1 then return 0 end
local keys = { tag .. ':claimed', tag .. ':expires' }
for _, priority in ipairs(call('ZRANGE', tag .. ':levels', 0, -1)) do keys[#keys + 1] = tag .. ':due:' .. priority end
for _, key in ipairs(keys) do
    if (tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) or never) <= now then return 1 end
end
return 0
