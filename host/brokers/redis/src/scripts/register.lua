-- Lists a new worker. KEYS: base. ARGV: worker.
-- A crash before: nothing. After: a worker that holds nothing and is taken for dead in its time.
begin(KEYS[1])
redis.call('ZADD', KEYS[1] .. ':workers', string.format('%.0f', now()), ARGV[1])
return 1
