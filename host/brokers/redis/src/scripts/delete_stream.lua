-- Deletes a consumer group of Brolly's own, or Brolly's part of one of somebody else.
-- KEYS: stream, base. ARGV: group, '1' to drop what it holds, '1' for a group of somebody else.
-- Answers how many messages forbid it, at least; 0 means that it is deleted. The stream stays.
local stream, base, group, force, adopt = KEYS[1], KEYS[2], ARGV[1], ARGV[2] == '1', ARGV[3] == '1'
local holds = redis.call('ZCARD', base .. ':delayed') + in_flight(base)
local there = false
if not adopt and redis.call('TYPE', stream)['ok'] == 'stream' then
  for _, fields in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local info = {}
    for at = 1, #fields, 2 do info[fields[at]] = fields[at + 1] end
    if info.name == group then
      there = true
      local ahead = redis.call('XRANGE', stream, '(' .. info['last-delivered-id'], '+', 'COUNT', 1)
      holds = holds + info.pending + math.max(info.lag or 0, #ahead)
    end
  end
end
if holds > 0 and not force then return holds end
if there then redis.call('XGROUP', 'DESTROY', stream, group) end
drop(base)
return 0
