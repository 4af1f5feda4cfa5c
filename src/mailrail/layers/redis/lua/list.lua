-- KEYS: the list. ARGV: channels. For a cluster, where the list lies in another slot than the channels.
for _, channel in ipairs(ARGV) do call('ZADD', KEYS[1], now, channel) end
