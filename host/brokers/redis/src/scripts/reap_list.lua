-- Puts what dead workers hold back at the head of the list, in its order.
-- KEYS: list, base. ARGV: '1' for a list of somebody else, milliseconds of silence that mean death,
-- a worker that is dead in any case or '', the most values to move.
-- Answers {moved, 1 if there is more}.
-- The worker is taken for dead first and for good, so that it takes nothing more. It is moved from
-- its end, so that a crash in between leaves the rest to be moved in front of it.
local list, base, adopt, victim, most = KEYS[1], KEYS[2], ARGV[1] == '1', ARGV[3], tonumber(ARGV[4])
local workers, moved = base .. ':workers', 0
begin(base)
local dead
if victim ~= '' then
  -- Even if it is not listed: somebody may have deleted the list of workers.
  dead = { victim }
else
  dead = redis.call('ZRANGEBYSCORE', workers, '-inf', string.format('%.0f', now() - ARGV[2]))
end
for _, worker in ipairs(dead) do
  redis.call('ZADD', workers, 'XX', 0, worker)
  local mine = base .. ':taken:' .. worker
  for _, tag in ipairs(tags_of(base, worker)) do
    if moved == most then return { moved, 1 } end
    put_back(list, base, adopt, redis.call('HGET', mine, tag))
    redis.call('HDEL', mine, tag)
    moved = moved + 1
  end
  redis.call('ZREM', workers, worker)
end
return { moved, 0 }
