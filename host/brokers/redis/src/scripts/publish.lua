-- Sends one message to all its destinations, or to none.
-- KEYS: key and base of each destination. ARGV: header, payload, how many stream fields follow, those
-- fields, then for each destination its kind and two arguments:
--   'list'   most messages, ''      a list of Brolly's own gets header and payload
--   'plain'  most messages, ''      a list of somebody else gets the payload
--   'stream' '1' if it must exist, ''
--   'held'   due-in, token          it is held back, for this queue alone
-- Everything is checked before the first write. That one is refused if the server is full.
local header, payload, fields = ARGV[1], ARGV[2], tonumber(ARGV[3])

local function destination(place)
  local at = 4 + fields + 3 * (place - 1)
  return KEYS[2 * place - 1], KEYS[2 * place], ARGV[at], ARGV[at + 1], ARGV[at + 2]
end

local function fault(key, base, kind, argument)
  if kind == 'held' then return nil end
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

for place = 1, #KEYS / 2 do
  local key, base, kind, argument = destination(place)
  local wrong = fault(key, base, kind, argument)
  if wrong then return wrong end
end
for place = 1, #KEYS / 2 do
  local key, base, kind, first, second = destination(place)
  if kind == 'list' then
    redis.call('RPUSH', key, 'brolly/1 ' .. header .. '\n' .. payload)
  elseif kind == 'plain' then
    redis.call('RPUSH', key, payload)
  elseif kind == 'stream' then
    local entry = {}
    for field = 1, fields do entry[field] = ARGV[3 + field] end
    entry[fields + 1], entry[fields + 2] = 'payload', payload
    redis.call('XADD', key, '*', unpack(entry))
  else
    delay(base, second, now() + first, 'brolly/1 ' .. header .. '\n' .. payload)
  end
end
return 1
