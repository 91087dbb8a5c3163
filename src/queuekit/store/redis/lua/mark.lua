-- route, depth ('' = unknown)
local route = P .. 'route:' .. A(1)
local marks = P .. 'marks:' .. A(1)
local r = redis.call('HMGET', route, 'mark', 'pseq')
local mark = tonumber(r[1] or 0)
if A(2) == '0' and tonumber(r[2] or 0) > mark then
  -- an empty broker has been passed by all that was ever published to it
  mark = tonumber(r[2])
  redis.call('HSET', route, 'mark', int(mark))
end
-- entries from the future are those of a clock that was set back; of two within one ms only the later one counts
redis.call('ZREMRANGEBYSCORE', marks, int(NOW), '+inf')
redis.call('ZADD', marks, 'NX', int(NOW), int(mark))
local old = redis.call('ZREVRANGEBYSCORE', marks, int(NOW - LEASE), '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
if old[2] then redis.call('ZREMRANGEBYSCORE', marks, '-inf', '(' .. old[2]) end
return 1
