-- id, token, end, delay
if already(A(1), A(2), 'release') then return 1 end
if not holds(A(1), A(2)) then return 0 end
local r = redis.call('HMGET', job(A(1)), 'route', 'cancel')
end_attempt(A(1), A(2), 'release', A(3))
redis.call('HINCRBY', job(A(1)), 'attempt', -1)
if r[2] then
  terminal(A(1), 'cancelled', r[2])
else
  park(A(1), r[1], NOW + tonumber(A(4)), 'queued')
end
return 1
