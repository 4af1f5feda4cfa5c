-- The flags of a state, beside UNREADABLE. KEYED: it has a key that nobody else can use, as it has not started.
local ALONE, KEYED = 1, 2

local function is(s, flag) return s.flags % (2 * flag) >= flag end
local function set(s, flag) if not is(s, flag) then s.flags = s.flags + flag end end
local function clear(s, flag) if is(s, flag) then s.flags = s.flags - flag end end
