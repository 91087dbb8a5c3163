-- id, reason
local r = redis.call('HMGET', job(A(1)), 'status', 'worker', 'route')
if not r[1] then return 'missing' end
if r[1] == 'succeeded' or r[1] == 'failed' or r[1] == 'cancelled' then return 'ended' end
if r[1] == 'running' then
  redis.call('HSETNX', job(A(1)), 'cancel', A(2))
  redis.call('SADD', P .. 'cancels:' .. r[2], A(1))
  return 'requested'
end
off_route(A(1), r[3])
terminal(A(1), 'cancelled', A(2))
return 'cancelled'
