-- A worker leaves: what it holds is for others from now on, who need not wait for it to be silent.
-- KEYS: base. ARGV: worker.
-- It stays listed, as dead, until another one has claimed what was pending for it.
begin(KEYS[1])
return redis.call('ZADD', KEYS[1] .. ':workers', 'XX', 'CH', 0, ARGV[1])
