-- KEYS: hash tag [, channels of this server]. ARGV: channel, by whom, reason. One that is paused stays paused since then;
-- a new reason replaces who and why.
if KEYS[2] then call('SADD', KEYS[2], ARGV[1]) end
local pause = KEYS[1] .. ':paused'
if call('HSETNX', pause, 'since', string.format('%.6f', now)) == 1 or ARGV[3] ~= '' then
    call('HSET', pause, 'by', ARGV[2], 'reason', ARGV[3])
end
