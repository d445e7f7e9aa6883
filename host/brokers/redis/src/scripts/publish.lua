-- Sends one message to all its destinations, or to none.
-- KEYS: key and base of each destination. ARGV: header, payload, the mark by which it is known that it
-- was sent, how many stream fields follow, those fields, then for each destination its kind and two
-- arguments:
--   'list'   most messages, ''      a list of Brolly's own gets header and payload
--   'plain'  most messages, ''      a list of somebody else gets the payload
--   'stream' '1' if it must exist, ''
--   'held'   due-in, token          it is held back, for this queue alone
-- Everything is checked before the first write. That one is refused if the server is full.
-- A crash before leaves nothing, one after leaves all. A sender who has not heard of it sends again, and
-- a destination that had the mark lately is left as it is: so others get it once, too.
local header, payload, mark, fields = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local function destination(place)
  local at = 5 + fields + 3 * (place - 1)
  return KEYS[2 * place - 1], KEYS[2 * place], ARGV[at], ARGV[at + 1], ARGV[at + 2]
end

local function fault(key, base, kind, argument)
  local present, wanted = redis.call('TYPE', key)['ok'], kind == 'stream' and 'stream' or 'list'
  if present ~= wanted and (present ~= 'none' or (kind == 'stream' and argument == '1')) then
    return redis.error_reply('BROLLYTYPE ' .. key .. ' is ' .. present .. ', not ' .. wanted)
  end
  if kind == 'stream' then return nil end
  local waiting = redis.call('LLEN', key) + redis.call('ZCARD', base .. ':delayed') + in_flight(base)
  if waiting >= tonumber(argument) then
    return redis.error_reply('BROLLYFULL ' .. key .. ' holds ' .. waiting .. ' messages, its limit is ' .. argument)
  end
end

local function put(key, kind)
  if kind == 'list' then
    redis.call('RPUSH', key, 'brolly/1 ' .. header .. '\n' .. payload)
  elseif kind == 'plain' then
    redis.call('RPUSH', key, payload)
  else
    local entry = {}
    for field = 1, fields do entry[field] = ARGV[4 + field] end
    entry[fields + 1], entry[fields + 2] = 'payload', payload
    redis.call('XADD', key, '*', unpack(entry))
  end
end

local todo = {}
for place = 1, #KEYS / 2 do
  local key, base, kind, argument = destination(place)
  local sent = kind ~= 'held' and redis.call('ZSCORE', base .. ':sent', mark)
  if not sent then
    todo[#todo + 1] = place
    local wrong = kind ~= 'held' and fault(key, base, kind, argument)
    if wrong then return wrong end
  end
end
local moment = now()
for _, place in ipairs(todo) do
  local key, base, kind, first, second = destination(place)
  if kind == 'held' then
    delay(base, second, moment + first, 'brolly/1 ' .. header .. '\n' .. payload)
  else
    put(key, kind)
    redis.call('ZADD', base .. ':sent', string.format('%.0f', moment), mark)
    redis.call('ZREMRANGEBYRANK', base .. ':sent', 0, -SENT - 1)
    redis.call('PEXPIRE', base .. ':sent', SENT_KEEP)
  end
end
return #todo
