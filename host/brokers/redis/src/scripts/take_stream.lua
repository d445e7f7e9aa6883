-- Takes from a consumer group: what earlier workers of this host held first, then what is due, then what
-- was given back or belongs to a dead worker, then what nobody has had.
-- KEYS: stream, base. ARGV: worker, most, bytes, first tag, group, milliseconds of silence that mean
-- death, or '' while only those are dead that are known to be, the largest value that is handed out whole,
-- then earlier workers of this host: what they held may be decided in the memory of the host, so that
-- nobody else should have it.
-- Answers {next due, vanished, last id, tag, kind, handed out before, size, data, ...}: of kind 'h' the
-- data is a value, of kind 'e' an entry as {id, {field, text, ...}}. The last id is that of the last
-- entry if nothing was left to take.
-- An entry is pending for one worker or another at every moment until it is settled.
local stream, base, worker, group = KEYS[1], KEYS[2], ARGV[1], ARGV[5]
local most, bytes, tag, largest = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[7])
if not lives(base, worker) then return gone(worker) end
begin(base)
local moment, mine, workers = now(), base .. ':taken:' .. worker, base .. ':workers'
local count, vanished, answer = 0, 0, {}

local function put(kind, again, size, data)
  local at = #answer
  answer[at + 1], answer[at + 2], answer[at + 3], answer[at + 4], answer[at + 5] = tag, kind, again and 1 or 0, size, data
  tag, count, bytes = tag + 1, count + 1, bytes - math.min(size, largest)
  return count < most and bytes > 0
end

local function hold(value, again)
  redis.call('HSET', mine, tag, value)
  return put('h', again, #value, string.sub(value, 1, largest))
end

local function deliver(entry, again)
  local size = 0
  for _, text in ipairs(entry[2]) do size = size + #text end
  if size > largest then entry[2] = {} end
  return put('e', again, size, entry)
end

-- Claims what is pending for another consumer. An entry that somebody has deleted cannot be claimed.
local function claim(consumer)
  while count < most and bytes > 0 do
    local ids, present = {}, {}
    for _, pending in ipairs(redis.call('XPENDING', stream, group, '-', '+', math.min(8, most - count), consumer)) do
      ids[#ids + 1] = pending[1]
    end
    if #ids == 0 then return true end
    for _, entry in ipairs(redis.call('XCLAIM', stream, group, worker, 0, unpack(ids))) do
      if entry and entry[2] then
        present[entry[1]] = true
        deliver(entry, true)
      end
    end
    for _, id in ipairs(ids) do
      if not present[id] then
        redis.call('XACK', stream, group, id)
        vanished = vanished + 1
      end
    end
  end
  return false
end

-- What a dead worker had taken from the delayed goes back there.
local function bury(dead)
  redis.call('ZADD', workers, 'XX', 0, dead)
  if not claim(dead) then return end
  for _, held in ipairs(tags_of(base, dead)) do
    delay(base, dead .. '-' .. held, 0, marked(redis.call('HGET', base .. ':taken:' .. dead, held)))
    redis.call('HDEL', base .. ':taken:' .. dead, held)
  end
  redis.call('XGROUP', 'DELCONSUMER', stream, group, dead)
  redis.call('ZREM', workers, dead)
end

-- What an earlier worker held is this one's.
local function inherit(before)
  if not claim(before) then return end
  local held = tags_of(base, before)
  for place = #held, 1, -1 do
    local room = hold(marked(redis.call('HGET', base .. ':taken:' .. before, held[place])), true)
    redis.call('HDEL', base .. ':taken:' .. before, held[place])
    if not room then return end
  end
  redis.call('XGROUP', 'DELCONSUMER', stream, group, before)
  redis.call('ZREM', workers, before)
end

for at = 8, #ARGV do inherit(ARGV[at]) end
if count < most and bytes > 0 then take_due(base, moment, most - count, hold) end
if claim('brolly-returned') then
  local silent = ARGV[6] == '' and '0' or string.format('%.0f', moment - ARGV[6])
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', workers, '-inf', silent, 'LIMIT', 0, 10)) do bury(dead) end
end
while count < most and bytes > 0 do
  local some = math.min(8, most - count)
  local read = redis.call('XREADGROUP', 'GROUP', group, worker, 'COUNT', some, 'STREAMS', stream, '>')
  local entries = read and read[1] and read[1][2] or {}
  for _, entry in ipairs(entries) do deliver(entry, false) end
  if #entries < some then break end
end
local last = ''
if count == 0 then
  local entry = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  last = entry and entry[1] or '0-0'
end
table.insert(answer, 1, last)
table.insert(answer, 1, vanished)
table.insert(answer, 1, next_due(base, moment))
return answer
