-- KEYS: hash tag [, channels of this server]. ARGV: channel.
if KEYS[2] then call('SADD', KEYS[2], ARGV[1]) end
call('SET', KEYS[1] .. ':paused', now)
