-- Takes from a list: what earlier workers of this host held first, then what is due, then from the head
-- of the list.
-- KEYS: list, base. ARGV: worker, most, bytes, first tag, topic, '1' for a list of somebody else,
-- the largest value that is handed out whole, then earlier workers of this host. What they held may be
-- decided in the memory of the host, so that nobody else should have it.
-- Answers {next due, tag, handed out before, size, value, ...}.
-- Each value stands in the worker's hash before it leaves the list, and the script is one step: a
-- crash of anybody at any moment leaves it in the one or in the other.
local list, base, worker, topic, adopt = KEYS[1], KEYS[2], ARGV[1], ARGV[5], ARGV[6] == '1'
local most, bytes, tag, largest = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[7])
if not lives(base, worker) then return gone(worker) end
begin(base)
local moment, mine, count, answer = now(), base .. ':taken:' .. worker, 0, {}

local function hold(value, again)
  redis.call('HSET', mine, tag, value)
  local shown = value
  if #value > largest then shown = string.sub(value, 1, largest) end
  local at = #answer
  answer[at + 1], answer[at + 2], answer[at + 3], answer[at + 4] = tag, again and 1 or 0, #value, shown
  tag, count, bytes = tag + 1, count + 1, bytes - #shown
  return count < most and bytes > 0
end

-- The header of a payload that has none: the one that it was given back with, or a new one.
local function wrap(payload, known)
  if known then
    local header = redis.call('LPOP', base .. ':ids:' .. redis.sha1hex(payload))
    if header then return 'brolly/1+' .. header .. '\n' .. payload end
  end
  return string.format('brolly/1 {"id":"%s-%.0f","topic":"%s","at":%.0f,"raw":true}\n', worker, tag, topic, moment)
    .. payload
end

local room = true
for at = 8, #ARGV do
  local before = base .. ':taken:' .. ARGV[at]
  local held = tags_of(base, ARGV[at])
  for place = #held, 1, -1 do
    if not room then break end
    room = hold(marked(redis.call('HGET', before, held[place])), true)
    redis.call('HDEL', before, held[place])
  end
  if redis.call('EXISTS', before) == 0 then redis.call('ZREM', base .. ':workers', ARGV[at]) end
end
if room then take_due(base, moment, most, function(value, again)
  room = hold(value, again)
  return room
end) end
local known = adopt and redis.call('EXISTS', base .. ':ids') == 1
while room do
  local value = redis.call('LINDEX', list, 0)
  if not value then break end
  if not header_end(value) then value = wrap(value, known) end
  room = hold(value, string.sub(value, 9, 9) == '+')
  redis.call('LPOP', list)
end
table.insert(answer, 1, next_due(base, moment))
return answer
