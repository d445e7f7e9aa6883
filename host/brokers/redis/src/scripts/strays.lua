-- Lists consumers that nobody keeps alive, so that they are taken for dead: those of Brolly that are
-- not listed, and in a group of Brolly's own any that has been silent for too long.
-- KEYS: stream, base. ARGV: group, '1' for a group of somebody else, milliseconds of silence.
-- Answers how many there were. A crash before leaves them to be found again.
local stream, base, group, adopt, silence = KEYS[1], KEYS[2], ARGV[1], ARGV[2] == '1', tonumber(ARGV[3])
local workers, strays = base .. ':workers', 0
begin(base)
for _, pairs in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local consumer = fields_of(pairs)
  local ours = string.sub(consumer.name, 1, 7) == 'brolly-'
  if consumer.name ~= 'brolly-returned' and consumer.idle > silence and (ours or not adopt)
    and not redis.call('ZSCORE', workers, consumer.name) then
    redis.call('ZADD', workers, 0, consumer.name)
    strays = strays + 1
  end
end
return strays
