-- Settles what a worker has taken from a consumer group. KEYS: stream, base. ARGV: worker, group, then
-- any number of:
--   'a' id                               an entry is handled
--   'b' id                               an entry goes back
--   'r' id due-in token header payload   an entry is held back under a new header
--   'A' tag, 'B' tag, 'R' tag due-in header   the same for what was held back before
-- Answers how many of them the worker does not hold (any more). For those nothing is done, but that an
-- entry which was handled is handled, whoever holds it now.
-- One step: a crash before leaves the entries pending and the values held, and they come again.
local stream, base, worker, group = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local mine, moment, missing, at = base .. ':taken:' .. worker, now(), 0, 3
begin(base)

local function owns(id)
  return #redis.call('XPENDING', stream, group, id, id, 1, worker) == 1
end

local function held(what, tag)
  local value = redis.call('HGET', mine, tag)
  if not value then return 1 end
  if what == 'B' then
    delay(base, worker .. '-' .. tag, 0, marked(value))
  elseif what == 'R' then
    local payload = string.sub(value, header_end(value) + 1)
    delay(base, worker .. '-' .. tag, moment + ARGV[at], 'brolly/1+' .. ARGV[at + 1] .. '\n' .. payload)
  end
  redis.call('HDEL', mine, tag)
  return 0
end

local function entry(what, id)
  if what == 'a' then return 1 - redis.call('XACK', stream, group, id) end
  if not owns(id) then return 1 end
  if what == 'b' then
    redis.call('XCLAIM', stream, group, 'brolly-returned', 0, id, 'JUSTID')
  else
    delay(base, ARGV[at + 1], moment + ARGV[at], 'brolly/1+' .. ARGV[at + 2] .. '\n' .. ARGV[at + 3])
    redis.call('XACK', stream, group, id)
  end
  return 0
end

local width = { r = 4, R = 2 }
while ARGV[at] do
  local what, subject = ARGV[at], ARGV[at + 1]
  at = at + 2
  local settle = string.match(what, '%u') and held or entry
  missing = missing + settle(what, subject)
  at = at + (width[what] or 0)
end
return missing
