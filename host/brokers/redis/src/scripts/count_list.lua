-- KEYS: list, base. Answers {ready, in flight, delayed}.
return { redis.call('LLEN', KEYS[1]), in_flight(KEYS[2]), redis.call('ZCARD', KEYS[2] .. ':delayed') }
