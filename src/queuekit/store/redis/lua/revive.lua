-- id, message ('' = as it was), route ('' = as it was), handed over ('1' = somebody else is to publish it, at once),
-- anew ('1' = without the results of its steps)
local id = A(1)
local r = redis.call('HMGET', job(id), 'status', 'route', 'created', 'key')
if r[1] ~= 'failed' and r[1] ~= 'cancelled' then return false end
if redis.call('EXISTS', waits(id)) == 1 then return false end  -- it goes on after those that it waits for
if r[4] then
  local other = holder(r[4])
  if other and other ~= id then return false end
  redis.call('SET', P .. 'key:' .. r[4], id)
end
local route = A(3) ~= '' and A(3) or r[2]
if A(2) ~= '' then redis.call('HSET', job(id), 'message', A(2)) end
redis.call('HSET', job(id), 'route', route, 'state', '', 'ready', int(NOW))
redis.call('HDEL', job(id), 'finished', 'reason', 'cancel', 'expires')
redis.call('PERSIST', job(id))
if A(5) == '1' then
  redis.call('UNLINK', steps(id))
  redis.call('HDEL', job(id), 'step_bytes')
else
  redis.call('PERSIST', steps(id))
end
redis.call('ZREM', P .. r[1], id)
redis.call('ZADD', P .. 'waiting', r[3], id)
redis.call('SADD', P .. 'routes', route)
local taken = take(id, route)
revived(id)
if A(4) == '1' then redis.call('ZADD', P .. 'outbox:' .. route, int(NOW), id) end
return taken
