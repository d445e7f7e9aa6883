-- Deletes a consumer group of Brolly's own, or Brolly's part of one of somebody else.
-- KEYS: stream, base. ARGV: group, '1' to drop what it holds, '1' for a group of somebody else.
-- Answers how many messages forbid it, at least; 0 means that it is deleted. The stream stays.
local stream, base, group, force, adopt = KEYS[1], KEYS[2], ARGV[1], ARGV[2] == '1', ARGV[3] == '1'
local holds = redis.call('ZCARD', base .. ':delayed') + in_flight(base)
local info = not adopt and redis.call('TYPE', stream)['ok'] == 'stream' and group_info(stream, group)
if info then
  local ahead = redis.call('XRANGE', stream, '(' .. info['last-delivered-id'], '+', 'COUNT', 1)
  if #ahead > 0 then holds = holds + math.max(info.lag or 0, 1) end
  holds = holds + info.pending
end
if holds > 0 and not force then return holds end
if info then redis.call('XGROUP', 'DESTROY', stream, group) end
drop(base)
return 0
