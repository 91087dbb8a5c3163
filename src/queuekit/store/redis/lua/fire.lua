-- 1 name, 2 its record as the caller knows it, 3 the tick that is due, 4 the next one ('' = none), 5 whether a schedule
-- without one is let go ('1'), then for each job: id, message, digest, route, result_ttl, the moment of its tick,
-- expires_in, key, what to do where that is held, key_ttl
local name = A(1)
local due = redis.call('ZSCORE', P .. 'schedules', name)
if not due or due ~= A(3) or redis.call('HGET', P .. 'schedule:' .. name, 'text') ~= A(2) then return false end
local made = {}
for i = 6, #ARGV - 5, 10 do
  local j = {id = A(i), message = A(i + 1), digest = A(i + 2), route = A(i + 3), ttl = A(i + 4),
             at = tonumber(A(i + 5)), expires_in = A(i + 6), key = A(i + 7), held = A(i + 8), key_ttl = A(i + 9),
             parked = true}
  if redis.call('EXISTS', job(j.id)) == 0 then
    if make(j, 'schedule ' .. name) then made[#made + 1] = j.id end
  end
  redis.call('HSET', P .. 'schedule:' .. name, 'fired', A(i + 5), 'job', j.id)
end
if A(4) ~= '' then
  redis.call('ZADD', P .. 'schedules', A(4), name)
elseif A(5) == '1' then
  redis.call('ZREM', P .. 'schedules', name)
  redis.call('DEL', P .. 'schedule:' .. name)
else
  redis.call('ZADD', P .. 'schedules', '+inf', name)
end
return made
