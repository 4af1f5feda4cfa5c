-- uses: flags leaving claims dead_bodies
-- KEYS: hash tag. ARGV: a claim, the error, its class. Returns the number of the claim if it is lost.
local hash_tag = KEYS[1]
local _, id, token = each_claim(ARGV[1])()
local state = call('HGET', hash_tag .. ':state', id)
if not is_held(state, token) then return { 1 } end

local s = read(state)
local body = call('HGET', hash_tag .. ':body', id) or ''
remove(hash_tag, id, s)
s.token, s.worker = UNCLAIMED, ''
state = pack(s)
forget_dead(hash_tag, id) -- the id was sent again after its first death
call('HSET', hash_tag .. ':graves', id, struct.pack('<Ic0Ic0Ic0', #state, state, #body, body, #ARGV[2], ARGV[2]))
remember_dead(hash_tag, id, ARGV[3])
return {}
