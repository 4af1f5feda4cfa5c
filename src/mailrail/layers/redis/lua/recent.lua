-- uses: sums
-- KEYS: what the keys of history begin with. ARGV: since. Returns for each series: it, and the names and sums of its counts.
local base, sums, order = KEYS[1], {}, {}
local names = { 'sent', 'done', 'retried', 'buried', 'expired', 'longest_wait' }
for minute = math.max(tonumber(ARGV[1]), math.floor(now / 3600 - 48) * 3600), now, 60 do
    local start = string.format('%d', minute)
    for _, series in ipairs(call('SMEMBERS', base .. ':series:' .. start)) do
        if not sums[series] then sums[series], order[#order + 1] = {}, series end
        local found = call('HMGET', base .. ':60:' .. start .. ':' .. series, unpack(names))
        for j, name in ipairs(names) do add_up(sums[series], { name, found[j] or 0 }) end
    end
end
local rows = {}
for n, series in ipairs(order) do rows[n] = { series, flat(sums[series]) } end
return rows
