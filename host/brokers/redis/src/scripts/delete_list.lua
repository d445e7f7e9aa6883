-- Deletes a list of Brolly's own. KEYS: list, base. ARGV: '1' to drop what it holds.
-- Answers how many messages forbid it; 0 means that it is deleted.
local list, base = KEYS[1], KEYS[2]
local holds = redis.call('LLEN', list) + in_flight(base) + redis.call('ZCARD', base .. ':delayed')
  + redis.call('LLEN', base .. ':unfit')
if holds > 0 and ARGV[1] ~= '1' then return holds end
redis.call('UNLINK', list)
drop(base)
return 0
