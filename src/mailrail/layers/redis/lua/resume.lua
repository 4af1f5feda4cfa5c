-- KEYS: tag.
call('DEL', KEYS[1] .. ':paused')
hint(KEYS[1])
