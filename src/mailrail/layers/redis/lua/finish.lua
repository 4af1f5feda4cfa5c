-- uses: flags leaving claims many finishing
-- KEYS: tag. ARGV: claims. Returns the numbers of the lost ones.
return finish(KEYS[1], ARGV[1])
