-- name, whether it is to stand still ('1' or ''), the tick that it goes on with ('' = none)
local key = P .. 'schedule:' .. A(1)
local r = redis.call('HMGET', key, 'text', 'paused')
if not r[1] then return 0 end
if A(2) == '1' then
  redis.call('HSET', key, 'paused', 1)
  redis.call('ZADD', P .. 'schedules', '+inf', A(1))
elseif r[2] then
  redis.call('HDEL', key, 'paused')
  redis.call('ZADD', P .. 'schedules', A(3) ~= '' and A(3) or '+inf', A(1))
end
return 1
