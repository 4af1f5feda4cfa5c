-- KEYS: hash tag. Returns 1 if a claim would find or drop something. Writes nothing.
local hash_tag = KEYS[1]
if call('EXISTS', hash_tag .. ':paused') == 1 then return 0 end
local keys = { hash_tag .. ':claimed', hash_tag .. ':expires' }
for _, priority in ipairs(call('ZRANGE', hash_tag .. ':levels', 0, -1)) do keys[#keys + 1] = hash_tag .. ':due:' .. priority end
for _, key in ipairs(keys) do
    if (tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) or never) <= now then return 1 end
end
return 0
