-- Removes from a stream of Brolly's own what all its consumer groups have settled. KEYS: stream.
-- Answers how many entries are gone.
if redis.call('TYPE', KEYS[1])['ok'] ~= 'stream' then return 0 end
local lowest, lowest_time, lowest_number
for _, fields in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local info = {}
  for at = 1, #fields, 2 do info[fields[at]] = fields[at + 1] end
  local id = info['last-delivered-id']
  if info.pending > 0 then id = redis.call('XPENDING', KEYS[1], info.name)[2] end
  local time, number = string.match(id, '^(%d+)-(%d+)$')
  -- A number of the script is exact up to 15 digits.
  if #time > 15 or #number > 15 then return 0 end
  time, number = tonumber(time), tonumber(number)
  if not lowest or time < lowest_time or (time == lowest_time and number < lowest_number) then
    lowest, lowest_time, lowest_number = id, time, number
  end
end
if not lowest then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', '~', lowest)
