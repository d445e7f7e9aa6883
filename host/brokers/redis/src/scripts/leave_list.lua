-- Leaves a list of somebody else: puts what is delayed back at its head, the soonest first. Workers
-- are reaped before. A crash in between leaves the rest delayed. KEYS: list, base. ARGV: the most values to move. Answers {moved, 1 if there is more}.
local list, base, most = KEYS[1], KEYS[2], tonumber(ARGV[1])
begin(base)
local moved = 0
for _, token in ipairs(redis.call('ZREVRANGE', base .. ':delayed', 0, most - 1)) do
  local value = redis.call('HGET', base .. ':held', token)
  if value then put_back(list, base, true, value) end
  redis.call('HDEL', base .. ':held', token)
  redis.call('ZREM', base .. ':delayed', token)
  moved = moved + 1
end
return { moved, redis.call('ZCARD', base .. ':delayed') > 0 and 1 or 0 }
