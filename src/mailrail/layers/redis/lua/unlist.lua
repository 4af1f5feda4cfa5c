-- KEYS: the list. ARGV: seconds, channels. Takes off what was listed longer ago than that, but for these channels.
local kept = {}
for n = 2, #ARGV do kept[ARGV[n]] = true end
for _, channel in ipairs(call('ZRANGE', KEYS[1], '-inf', now - tonumber(ARGV[1]), 'BYSCORE')) do
    if not kept[channel] then call('ZREM', KEYS[1], channel) end
end
