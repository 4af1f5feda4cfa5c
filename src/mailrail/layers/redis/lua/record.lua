-- KEYS: what the keys of history begin with. ARGV: seconds until minutes are hours only, seconds that history is kept, then for
-- each row: series, start ('': now), how many things are counted, and these by name and number.
local base, minutes, kept = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])

local function add(span, start, series, first, last, ends)
    if ends <= now then return end
    local key = base .. ':' .. span .. ':' .. string.format('%d', start) .. ':' .. series
    for j = first, last, 2 do
        if ARGV[j] ~= 'longest_wait' then
            call('HINCRBY', key, ARGV[j], ARGV[j + 1])
        elseif tonumber(ARGV[j + 1]) > (tonumber(call('HGET', key, ARGV[j])) or 0) then
            call('HSET', key, ARGV[j], ARGV[j + 1])
        end
    end
    call('EXPIREAT', key, string.format('%d', ends))
end

local at = 3
while at <= #ARGV do
    local series, start, last = ARGV[at], tonumber(ARGV[at + 1]) or now, at + 2 + 2 * tonumber(ARGV[at + 2])
    local hour, minute = math.floor(start / 3600) * 3600, math.floor(start / 60) * 60
    local ends = hour + 7200 + math.min(minutes, kept)
    add(3600, hour, series, at + 3, last, hour + 3600 + math.ceil(kept))
    add(60, minute, series, at + 3, last, ends)
    if ends > now then
        local active = base .. ':series:' .. string.format('%d', minute)
        call('SADD', active, series)
        call('EXPIREAT', active, string.format('%d', ends))
    end
    at = last + 1
end
