-- n
-- What has expired leaves the indexes, a part at a time.
local function trim(status, keep)
  local expired = redis.call('ZCOUNT', P .. status, '-inf', int(NOW - keep))
  if expired > 0 then redis.call('ZREMRANGEBYRANK', P .. status, 0, math.min(expired, TRIM) - 1) end
end
trim('succeeded', RETENTION)
trim('cancelled', RETENTION)
trim('failed', DEAD_TTL)

-- Whoever could not beat for reasons that are not its own is not dead: after a discontinuity nothing is reaped for a
-- lease. The server was started anew or failed over, its clock was set, or nobody has ticked.
local meta = P .. 'meta'
local ok, info = pcall(redis.call, 'INFO', 'server')
local run_id = ok and type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
local r = redis.call('HMGET', meta, 'tick', 'run_id', 'suspended')
local tick = tonumber(r[1])
local suspended = tonumber(r[3] or 0)
-- (a store that was never ticked on has nothing that could be taken for dead)
if tick and (NOW < tick or NOW - tick > LEASE / 3 or r[2] ~= run_id) then
  suspended = NOW + LEASE
  redis.call('HSET', meta, 'suspended', int(suspended))
  -- the clock was set back: no lease is longer than a lease
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', '(' .. int(NOW + LEASE), '+inf')) do
    redis.call('ZADD', P .. 'workers', int(NOW + LEASE), worker)
  end
end
redis.call('HSET', meta, 'tick', int(NOW), 'run_id', run_id)
if NOW < suspended then return {} end

local out = {}
local gone = redis.call('ZRANGEBYSCORE', P .. 'workers', '-inf', int(NOW), 'WITHSCORES', 'LIMIT', 0, A(1))
for i = 1, #gone, 2 do  -- with the moment of its last beat: it may have died a lease ago, before the limit of its attempts
  for _, one in ipairs(settle_all(gone[i], tonumber(gone[i + 1]) - LEASE)) do out[#out + 1] = one end
end
return out
