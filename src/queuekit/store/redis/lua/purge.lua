-- route, n, reason
-- Those first in line, then those that are parked. Whoever hears of one in the broker finds it cancelled.
local route, n = A(1), tonumber(A(2))
local ids = redis.call('ZRANGE', P .. 'queued:' .. route, 0, n - 1)
if #ids < n then
  for _, id in ipairs(redis.call('ZRANGE', P .. 'due:' .. route, 0, n - #ids - 1)) do ids[#ids + 1] = id end
end
local cancelled = {}
for _, id in ipairs(ids) do
  off_route(id, route)
  if redis.call('HEXISTS', job(id), 'message') == 1 then
    terminal(id, 'cancelled', A(3))
    cancelled[#cancelled + 1] = id
  end
end
return cancelled
