-- uses: flags leaving claims many finishing
-- KEYS: hash tag. ARGV: claims. Returns the numbers of the lost ones.
return finish(KEYS[1], ARGV[1])
