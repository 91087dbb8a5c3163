-- id, message ('' = as it was), route ('' = as it was)
local id = A(1)
local r = redis.call('HMGET', job(id), 'status', 'route')
if r[1] ~= 'failed' and r[1] ~= 'cancelled' then return false end
local route = A(3) ~= '' and A(3) or r[2]
if A(2) ~= '' then redis.call('HSET', job(id), 'message', A(2)) end
redis.call('HSET', job(id), 'route', route, 'state', '')
redis.call('HDEL', job(id), 'finished', 'reason', 'cancel', 'expires')
redis.call('PERSIST', job(id))
redis.call('ZREM', P .. 'dead', id)
redis.call('SADD', P .. 'routes', route)
return take(id, route)
