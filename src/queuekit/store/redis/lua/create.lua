-- id, message, digest, route, token, result_ttl, at ('' = now), delay, expires, expires_in
local id, route = A(1), A(4)
local old = redis.call('HMGET', job(id), 'digest', 'token', 'pseq', 'publications', 'status')
if old[1] then
  local mine = old[2] == A(5) and 1 or 0
  local pseq = (mine == 1 and old[5] == 'queued') and tonumber(old[3]) or 0
  return {mine, old[1] == A(3) and 1 or 0, epoch(), pseq, tonumber(old[4] or 0), int(NOW)}
end
redis.call('HSET', job(id), 'message', A(2), 'digest', A(3), 'route', route, 'token', A(5), 'result_ttl', A(6),
           'v', RECORD, 'created', int(NOW), 'status', 'scheduled', 'attempt', 0, 'runs', 0, 'state', '')
local expires = tonumber(A(9)) or (tonumber(A(10)) and NOW + tonumber(A(10)))
if expires then redis.call('HSET', job(id), 'expires', int(expires)) end
redis.call('SADD', P .. 'routes', route)
local at = tonumber(A(7)) or (NOW + (tonumber(A(8)) or 0))
if at > NOW then
  park(id, route, at, 'scheduled')
  return {1, 1, epoch(), 0, 0, int(NOW)}
end
local pseq, number = send(id, route)
redis.call('ZADD', P .. 'waiting', int(NOW), id)
return {1, 1, epoch(), pseq, number, int(NOW)}
