-- Settles what a worker has taken from a list. KEYS: list, base. ARGV: worker, '1' for a list of
-- somebody else, then any number of:
--   'a' tag                  it is handled
--   'p' tag                  it is handled, and breaks a limit: its original is kept aside
--   'b' tag                  it goes back to the head of the list; the latest tag comes first
--   'r' tag due-in header    it is held back, under a new header
-- Answers how many of them the worker does not hold (any more); for those nothing is done.
-- One step: a crash before leaves all of it in the worker's hash, from where it comes again.
local list, base, worker, adopt = KEYS[1], KEYS[2], ARGV[1], ARGV[2] == '1'
local mine, moment, missing, at = base .. ':taken:' .. worker, now(), 0, 3
begin(base)
while ARGV[at] do
  local what, tag = ARGV[at], ARGV[at + 1]
  at = at + 2
  if what == 'a' then
    missing = missing + 1 - redis.call('HDEL', mine, tag)
  else
    local value = redis.call('HGET', mine, tag)
    if not value then
      missing = missing + 1
    elseif what == 'p' then
      redis.call('RPUSH', base .. ':unfit', value)
    elseif what == 'b' then
      put_back(list, base, adopt, value)
    else
      local payload = string.sub(value, header_end(value) + 1)
      delay(base, worker .. '-' .. tag, moment + ARGV[at], 'brolly/1+' .. ARGV[at + 1] .. '\n' .. payload)
    end
    if what == 'r' then at = at + 2 end
    redis.call('HDEL', mine, tag)
  end
end
return missing
