-- KEYS: stream, base. ARGV: group. Answers {ready, in flight, delayed}; ready is -1 if Redis cannot tell.
-- What was given back is ready. Redis knows the lag of a group unless entries in the middle of the
-- stream were deleted; then few entries can still be counted.
local stream, base, group = KEYS[1], KEYS[2], ARGV[1]
local lag, pending = -1, 0
for _, fields in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local info = {}
  for at = 1, #fields, 2 do info[fields[at]] = fields[at + 1] end
  if info.name == group then
    pending = info.pending
    local length = redis.call('XLEN', stream)
    if info.lag then
      lag = info.lag
    elseif length == 0 then
      lag = 0
    elseif info['last-delivered-id'] == '0-0' then
      lag = length
    else
      local ahead = redis.call('XRANGE', stream, '(' .. info['last-delivered-id'], '+', 'COUNT', 101)
      if #ahead <= 100 then lag = #ahead end
    end
  end
end
local returned = 0
for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local consumer = {}
  for at = 1, #fields, 2 do consumer[fields[at]] = fields[at + 1] end
  if consumer.name == 'brolly-returned' then returned = consumer.pending end
end
if lag >= 0 then lag = lag + returned end
return { lag, pending - returned + in_flight(base), redis.call('ZCARD', base .. ':delayed') }
