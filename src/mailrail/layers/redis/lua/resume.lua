-- KEYS: hash tag.
call('DEL', KEYS[1] .. ':paused')
notify(KEYS[1])
