-- What the scripts have in common. BASE is the key in front of all keys that Brolly adds:
--   BASE:workers     zset  worker -> server time of its last sign of life; 0 means taken for dead, for good
--   BASE:taken:<worker>  hash  tag -> value; what this worker has taken and not settled
--   BASE:delayed     zset  token -> server time when it is due
--   BASE:held        hash  token -> value; what is delayed
--   BASE:unfit       list  originals of messages that break a limit
--   BASE:ids:<sha1>  list  headers of plain payloads that were given back
--   BASE:ids         whether there is any of those
--   BASE:sent        zset  topic and id of the messages that were published here last -> server time
-- A value is 'brolly/1' .. mark .. header .. '\n' .. payload, where the mark is ' ' or, once it was
-- handed out before, '+', and the header is a JSON object.

-- How long the header of a payload that was given back is kept for its return: 7 days.
local IDS_KEEP = 604800000

-- How many of the messages published last are remembered for each list and stream, and for how long
-- after the last of them: 7 days.
local SENT, SENT_KEEP = 10000, 604800000

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Redis refuses the first write of a script while it is full, if that write asks for memory, and no
-- write after it. Removing what is not there is a write that asks for none: a full server must
-- still be drained.
local function begin(base)
  redis.call('DEL', base .. ':none')
end

-- Whether the worker may still take: it is registered, and nobody has taken it for dead.
local function lives(base, worker)
  local seen = redis.call('ZSCORE', base .. ':workers', worker)
  return seen and tonumber(seen) > 0
end

local function gone(worker)
  return redis.error_reply('BROLLYGONE ' .. worker .. ' was silent for too long and was taken for dead')
end

-- Where the header of a value ends, if it is one.
local function header_end(value)
  local start = string.sub(value, 1, 10)
  if start ~= 'brolly/1 {' and start ~= 'brolly/1+{' then return nil end
  return string.find(value, '\n', 10, true)
end

local function marked(value)
  return 'brolly/1+' .. string.sub(value, 10)
end

-- Holds a value back until `due`.
local function delay(base, token, due, value)
  redis.call('HSET', base .. ':held', token, value)
  redis.call('ZADD', base .. ':delayed', string.format('%.0f', due), token)
end

-- Milliseconds until the next delayed value is due, or -1.
local function next_due(base, moment)
  local first = redis.call('ZRANGE', base .. ':delayed', 0, 0, 'WITHSCORES')
  if not first[1] then return -1 end
  return math.max(0, tonumber(first[2]) - moment)
end

-- Moves what is due to the worker; `hold` takes a value in and says whether there is room for more.
local function take_due(base, moment, most, hold)
  local due = redis.call('ZRANGEBYSCORE', base .. ':delayed', '-inf', string.format('%.0f', moment), 'LIMIT', 0, most)
  for _, token in ipairs(due) do
    local value = redis.call('HGET', base .. ':held', token)
    local room = true
    if value then room = hold(value, string.sub(value, 9, 9) == '+') end
    redis.call('ZREM', base .. ':delayed', token)
    redis.call('HDEL', base .. ':held', token)
    if not room then return end
  end
end

-- The tags of a worker, the latest first.
local function tags_of(base, worker)
  local tags = redis.call('HKEYS', base .. ':taken:' .. worker)
  table.sort(tags, function(a, b) return tonumber(a) > tonumber(b) end)
  return tags
end

local function in_flight(base)
  local sum = 0
  for _, worker in ipairs(redis.call('ZRANGE', base .. ':workers', 0, -1)) do
    sum = sum + redis.call('HLEN', base .. ':taken:' .. worker)
  end
  return sum
end

-- Whether the first of two entry ids is the later one. A longer number is the larger one.
local function later(first, second)
  local time, number = string.match(first, '^(%d+)-(%d+)$')
  local other_time, other_number = string.match(second, '^(%d+)-(%d+)$')
  if time == other_time then time, other_time = number, other_number end
  if #time ~= #other_time then return #time > #other_time end
  return time > other_time
end

-- The pairs of an answer as a table.
local function fields_of(pairs)
  local fields = {}
  for at = 1, #pairs, 2 do fields[pairs[at]] = pairs[at + 1] end
  return fields
end

-- What Redis knows of a consumer group, if it is there.
local function group_info(stream, group)
  for _, pairs in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local info = fields_of(pairs)
    if info.name == group then return info end
  end
end

-- Drops every key of BASE but those of given-back payloads, which expire.
local function drop(base)
  for _, worker in ipairs(redis.call('ZRANGE', base .. ':workers', 0, -1)) do
    redis.call('UNLINK', base .. ':taken:' .. worker)
  end
  redis.call('UNLINK', base .. ':workers', base .. ':delayed', base .. ':held', base .. ':unfit', base .. ':sent')
end

-- Puts a value of a list back at the head of the list. Into a list of somebody else goes the plain
-- payload; its header waits for it, so that it keeps its identity if Brolly takes it again. Of equal
-- payloads the headers are handed out in their order.
local function put_back(list, base, adopt, value)
  if not adopt then
    redis.call('LPUSH', list, marked(value))
    return
  end
  local cut = header_end(value)
  local payload = string.sub(value, cut + 1)
  local ids = base .. ':ids:' .. redis.sha1hex(payload)
  redis.call('LPUSH', ids, string.sub(value, 10, cut - 1))
  redis.call('PEXPIRE', ids, IDS_KEEP)
  redis.call('SET', base .. ':ids', '1', 'PX', IDS_KEEP)
  redis.call('LPUSH', list, payload)
end
