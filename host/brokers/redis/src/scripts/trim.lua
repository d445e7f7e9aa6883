-- Removes from a stream of Brolly's own what all its consumer groups have settled. KEYS: stream.
-- Answers how many entries are gone.
if redis.call('TYPE', KEYS[1])['ok'] ~= 'stream' then return 0 end
local lowest
for _, pairs in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local info = fields_of(pairs)
  local id = info['last-delivered-id']
  if info.pending > 0 then id = redis.call('XPENDING', KEYS[1], info.name)[2] end
  if not lowest or later(lowest, id) then lowest = id end
end
if not lowest then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', '~', lowest)
