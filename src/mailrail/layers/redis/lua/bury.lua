-- uses: flags leaving claims graves
-- KEYS: tag. ARGV: a claim, the error, its class. Returns the number of the claim if it is lost.
local tag = KEYS[1]
local _, id, token = each_claim(ARGV[1])()
local state = call('HGET', tag .. ':state', id)
if not is_held(state, token) then return { 1 } end

local s = read(state)
local body = call('HGET', tag .. ':body', id) or ''
remove(tag, id, s)
s.token, s.worker = UNCLAIMED, ''
state = pack(s)
forget_dead(tag, id) -- the id was sent again after its first death
call('HSET', tag .. ':graves', id, struct.pack('<Ic0Ic0Ic0', #state, state, #body, body, #ARGV[2], ARGV[2]))
remember_dead(tag, id, ARGV[3])
return {}
