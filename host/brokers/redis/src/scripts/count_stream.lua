-- KEYS: stream, base. ARGV: group, milliseconds of silence after which a worker is dead. Answers {ready,
-- in flight, delayed}; ready is -1 if Redis cannot tell. What was given back is ready, and so is what a
-- dead worker of Brolly holds. Redis knows the lag of a group unless entries in the middle of the
-- stream were deleted; then few entries can still be counted. Entries that were trimmed before they were
-- read are in the lag that it names.
local stream, base, group, silence = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])

local function lag_of(info)
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local read = info['last-delivered-id']
  if not first then return 0 end
  if later(first[1], read) then return redis.call('XLEN', stream) end
  if info.lag then return info.lag end
  local ahead = redis.call('XRANGE', stream, '(' .. read, '+', 'COUNT', 101)
  return #ahead <= 100 and #ahead or -1
end

local info = group_info(stream, group)
if not info then return redis.error_reply('NOGROUP there is no group ' .. group .. ' of ' .. stream) end
local lag, returned, moment = lag_of(info), 0, now()
for _, pairs in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local consumer = fields_of(pairs)
  local seen = redis.call('ZSCORE', base .. ':workers', consumer.name)
  local dead = seen and moment - tonumber(seen) > silence
  if dead or consumer.name == 'brolly-returned' then returned = returned + consumer.pending end
end
if lag >= 0 then lag = lag + returned end
return { lag, info.pending - returned + in_flight(base), redis.call('ZCARD', base .. ':delayed') }
