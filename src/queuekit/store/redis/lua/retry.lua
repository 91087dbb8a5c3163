-- id, token, end, delay, state
if already(A(1), A(2), 'retry') then return 1 end
if not holds(A(1), A(2)) then return 0 end
local r = redis.call('HMGET', job(A(1)), 'route', 'cancel')
end_attempt(A(1), A(2), 'retry', A(3))
if r[2] then
  terminal(A(1), 'cancelled', r[2])
else
  redis.call('HSET', job(A(1)), 'state', A(5))
  park(A(1), r[1], NOW + tonumber(A(4)), 'retrying')
end
return 1
