-- uses: sums
-- KEYS: what the keys of history begin with. ARGV: series, since, until, step, seconds until minutes become hours, seconds that
-- history is kept.
-- Returns for each step in which something happened: its start, and the names and sums of what is counted.
local base, series = KEYS[1], ARGV[1]
local since, till, step = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local border = math.floor((now - tonumber(ARGV[5])) / 3600) * 3600
since, till = math.max(since, math.floor((now - tonumber(ARGV[6])) / 3600) * 3600), math.min(till, now + 3600)
local steps, starts = {}, {}

local function read(span, start)
    if start < since or start >= till then return end
    local found = call('HGETALL', base .. ':' .. span .. ':' .. string.format('%d', start) .. ':' .. series)
    if #found == 0 then return end
    local at = math.floor(start / step) * step
    if not steps[at] then steps[at], starts[#starts + 1] = {}, at end
    add_up(steps[at], found)
end

for hour = math.floor(since / 3600) * 3600, till, 3600 do
    if hour < border or (step % 3600 == 0 and hour >= since and hour + 3600 <= till) then
        read(3600, hour)
    else
        for minute = hour, hour + 3540, 60 do read(60, minute) end
    end
end
local rows = {}
for n, at in ipairs(starts) do rows[n] = { string.format('%d', at), flat(steps[at]) } end
return rows
