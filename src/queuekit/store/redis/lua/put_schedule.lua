-- name, record, when it ticks, the next tick ('' = none), declared in code or settings ('1' or '')
local key = P .. 'schedule:' .. A(1)
local r = redis.call('HMGET', key, 'text', 'when', 'declared', 'paused')
if r[1] and r[3] ~= A(5) then return 'taken' end
if r[1] == A(2) then return 'same' end
redis.call('HSET', key, 'text', A(2), 'when', A(3), 'declared', A(5))
if not r[1] or (r[2] ~= A(3) and not r[4]) then
  redis.call('ZADD', P .. 'schedules', A(4) ~= '' and A(4) or '+inf', A(1))
end
return r[1] and 'changed' or 'added'
