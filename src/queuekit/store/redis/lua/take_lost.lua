-- route, n
-- Brokers are first in, first out: what is still queued though the mark of one lease ago has passed it, was lost.
local route, n = A(1), tonumber(A(2))
local ids, seen = {}, {}
local function add(found)
  for _, id in ipairs(found) do
    if not seen[id] and #ids < n then
      seen[id] = true
      ids[#ids + 1] = id
    end
  end
end
add(redis.call('ZRANGEBYSCORE', P .. 'outbox:' .. route, '-inf', int(NOW), 'LIMIT', 0, n))
-- an entry from the future: the clock was set back
add(redis.call('ZRANGEBYSCORE', P .. 'outbox:' .. route, '(' .. int(NOW + OUTBOX), '+inf', 'LIMIT', 0, n))
local mark = redis.call('ZREVRANGEBYSCORE', P .. 'marks:' .. route, int(NOW - LEASE), '-inf', 'LIMIT', 0, 1)[1]
if mark then add(redis.call('ZRANGEBYSCORE', P .. 'queued:' .. route, '-inf', mark, 'LIMIT', 0, n)) end
return take_all(ids, route)
