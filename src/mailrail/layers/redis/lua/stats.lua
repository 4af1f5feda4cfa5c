-- KEYS: hash tags [, channels of this server]. ARGV: channels. Takes those of which there is nothing from the list.
-- Returns for each channel: ready, scheduled, claimed, dead, paused, the age of the oldest due, as text, and, if it is
-- paused, since when, by whom and why.
local rows = {}
for i, channel in ipairs(ARGV) do
    local hash_tag = KEYS[i]
    local ready, later, oldest = 0, 0, now
    local keys = { hash_tag .. ':held' }
    for _, priority in ipairs(call('ZRANGE', hash_tag .. ':levels', 0, -1)) do
        keys[#keys + 1] = hash_tag .. ':due:' .. priority
    end
    for n, key in ipairs({ hash_tag .. ':claimed', unpack(keys) }) do
        local due = call('ZCOUNT', key, '-inf', now)
        ready = ready + due
        if n > 1 then later = later + call('ZCARD', key) - due end
        if due > 0 then oldest = math.min(oldest, tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])) end
    end
    local claimed = call('ZCOUNT', hash_tag .. ':claimed', '(' .. string.format('%.17g', now), '+inf')
    local dead, paused = call('ZCARD', hash_tag .. ':dead'), call('EXISTS', hash_tag .. ':paused')
    local pause = paused == 1 and call('HMGET', hash_tag .. ':paused', 'since', 'by', 'reason') or {}
    rows[i] = { ready, later, claimed, dead, paused, string.format('%.6f', now - oldest), pause }
    if KEYS[#ARGV + 1] and ready + later + claimed + dead + paused == 0 then
        call('SREM', KEYS[#ARGV + 1], channel)
    end
end
return rows
