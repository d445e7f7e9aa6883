-- One host of a group listens at a time. KEYS: the group's seat. ARGV: host, for how long it sits, or 0
-- to get up. Answers with 1 and 0 if it sits (now, or still), else with 0 and for how long the other one
-- sits unless it gives a sign of life. A crash leaves the seat taken until that is over.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {0, redis.call('PTTL', KEYS[1])} end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return {1, 0}
