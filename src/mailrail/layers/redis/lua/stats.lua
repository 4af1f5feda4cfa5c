-- KEYS: tags [, channels of this server]. ARGV: channels. Takes those of which there is nothing from the list.
-- Returns for each channel: ready, scheduled, claimed, dead, paused, and the age of the oldest due, as text.
local rows = {}
for i, channel in ipairs(ARGV) do
    local tag = KEYS[i]
    local ready, later, oldest = 0, 0, now
    local keys = { tag .. ':held' }
    for _, priority in ipairs(call('ZRANGE', tag .. ':levels', 0, -1)) do
        keys[#keys + 1] = tag .. ':due:' .. priority
    end
    for n, key in ipairs({ tag .. ':claimed', unpack(keys) }) do
        local due = call('ZCOUNT', key, '-inf', now)
        ready = ready + due
        if n > 1 then later = later + call('ZCARD', key) - due end
        if due > 0 then oldest = math.min(oldest, tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])) end
    end
    local claimed = call('ZCOUNT', tag .. ':claimed', '(' .. string.format('%.17g', now), '+inf')
    local dead, paused = call('ZCARD', tag .. ':dead'), call('EXISTS', tag .. ':paused')
    rows[i] = { ready, later, claimed, dead, paused, string.format('%.6f', now - oldest) }
    if KEYS[#ARGV + 1] and ready + later + claimed + dead + paused == 0 then
        call('SREM', KEYS[#ARGV + 1], channel)
    end
end
return rows
