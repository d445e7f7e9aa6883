-- A sign of life. KEYS: base, stream (or the base again). ARGV: worker, group of somebody else or ''.
-- In a group that others use as well, what this worker holds must not look idle to them.
local base, worker, group = KEYS[1], ARGV[1], ARGV[2]
if not lives(base, worker) then return gone(worker) end
begin(base)
redis.call('ZADD', base .. ':workers', 'XX', string.format('%.0f', now()), worker)
if group ~= '' then
  local from, count = '-', 0
  repeat
    local pending = redis.call('XPENDING', KEYS[2], group, from, '+', 1000, worker)
    count = #pending
    local claim = {}
    for place, entry in ipairs(pending) do claim[place] = entry[1] end
    if count > 0 then
      from = '(' .. claim[count]
      claim[count + 1] = 'JUSTID'
      redis.call('XCLAIM', KEYS[2], group, worker, 0, unpack(claim))
    end
  until count < 1000
end
return 1
