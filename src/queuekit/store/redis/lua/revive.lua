-- id, message ('' = as it was), route ('' = as it was), handed over ('1' = somebody else is to publish it, at once)
local id = A(1)
local r = redis.call('HMGET', job(id), 'status', 'route', 'created')
if r[1] ~= 'failed' and r[1] ~= 'cancelled' then return false end
local route = A(3) ~= '' and A(3) or r[2]
if A(2) ~= '' then redis.call('HSET', job(id), 'message', A(2)) end
redis.call('HSET', job(id), 'route', route, 'state', '', 'ready', int(NOW))
redis.call('HDEL', job(id), 'finished', 'reason', 'cancel', 'expires')
redis.call('PERSIST', job(id))
redis.call('ZREM', P .. r[1], id)
redis.call('ZADD', P .. 'waiting', r[3], id)
redis.call('SADD', P .. 'routes', route)
local taken = take(id, route)
if A(4) == '1' then redis.call('ZADD', P .. 'outbox:' .. route, int(NOW), id) end
return taken
