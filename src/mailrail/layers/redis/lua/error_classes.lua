-- KEYS: hash tag. Returns what the dead messages died of, each class once.
return call('SMEMBERS', KEYS[1] .. ':error_classes')
