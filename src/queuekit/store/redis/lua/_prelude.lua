-- Put before every operation. KEYS[1] is the prefix of all keys of the namespace; its hash tag keeps them on one node.
-- ARGV: 1 the clock in ms (tests only, '' = the server's), 2 the lease, 3 a name for the epoch should the store be
-- empty, 4 how long ended records stay, 5 dead letters, 6 the first argument of the operation.
local P = KEYS[1]
local NOW = tonumber(ARGV[1])
if not NOW then
  local t = redis.call('TIME')
  NOW = t[1] * 1000 + math.floor(t[2] / 1000)
end
local LEASE, RETENTION, DEAD_TTL = tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
local OUTBOX = 5000   -- a publication that is not confirmed after so many ms is made again
local DAY = 86400000

local function A(i) return ARGV[5 + i] end
local function int(n) return string.format('%.0f', n) end
local function job(id) return P .. 'job:' .. id end

local function epoch()
  local known = redis.call('HGET', P .. 'meta', 'epoch')
  if known then return known end
  redis.call('HSET', P .. 'meta', 'epoch', ARGV[3])
  return ARGV[3]
end

local function off_route(id, route)
  redis.call('ZREM', P .. 'due:' .. route, id)
  redis.call('ZREM', P .. 'queued:' .. route, id)
  redis.call('ZREM', P .. 'outbox:' .. route, id)
end

-- Number a publication: the job is queued, and in the outbox until somebody says that the broker has it.
local function send(id, route)
  local pseq = redis.call('HINCRBY', P .. 'route:' .. route, 'pseq', 1)
  local number = redis.call('HINCRBY', job(id), 'publications', 1)
  redis.call('HSET', job(id), 'status', 'queued', 'pseq', pseq)
  redis.call('ZREM', P .. 'due:' .. route, id)
  redis.call('ZADD', P .. 'queued:' .. route, pseq, id)
  redis.call('ZADD', P .. 'outbox:' .. route, NOW + OUTBOX, id)
  return pseq, number
end

local function park(id, route, at, status)
  redis.call('HSET', job(id), 'status', status)
  redis.call('ZADD', P .. 'due:' .. route, int(at), id)
end

-- The fence: running, and by this very token.
local function holds(id, token)
  local r = redis.call('HMGET', job(id), 'status', 'fence')
  return r[1] == 'running' and r[2] == token
end

-- A reply can be lost: the same step by the same token gets the same answer.
local function already(id, token, op)
  return redis.call('HGET', job(id), 'ended') == token .. ':' .. op
end

local function end_attempt(id, token, op, text)
  local r = redis.call('HMGET', job(id), 'runs', 'worker')
  redis.call('HSET', job(id), 'end' .. r[1], int(NOW) .. '|' .. text, 'ended', token .. ':' .. op)
  redis.call('HDEL', job(id), 'fence', 'lost_delay', 'lost_state', 'lost_end', 'lost_reason',
             'limit_delay', 'limit_state', 'limit_end', 'limit_reason')
  redis.call('ZREM', P .. 'deadlines', id)
  redis.call('HDEL', P .. 'worker:' .. r[2], id)
  redis.call('SREM', P .. 'cancels:' .. r[2], id)
end

local function terminal(id, status, reason)
  local route = redis.call('HGET', job(id), 'route')
  off_route(id, route)
  redis.call('HSET', job(id), 'status', status, 'finished', int(NOW), 'reason', reason)
  local keep = RETENTION
  if status == 'failed' then
    keep = DEAD_TTL
    redis.call('ZADD', P .. 'dead', int(NOW), id)
    redis.call('ZREMRANGEBYSCORE', P .. 'dead', '-inf', int(NOW - DEAD_TTL))
  elseif status == 'succeeded' then
    -- the tombstone of a result stays a day longer than the result
    keep = math.max(RETENTION, tonumber(redis.call('HGET', job(id), 'result_ttl')) + DAY)
  end
  redis.call('PEXPIRE', job(id), int(keep))
end

-- End an attempt that its worker cannot end, by the plan that the policy made when it was claimed.
local function settle(id, plan)
  local r = redis.call('HMGET', job(id), 'fence', 'route', plan .. '_delay', plan .. '_state', plan .. '_end',
                       plan .. '_reason', 'cancel')
  if not r[1] then
    -- the record is gone (evicted, deleted by hand): one such must not stop the reaper for all others
    redis.call('ZREM', P .. 'deadlines', id)
    return false
  end
  end_attempt(id, r[1], plan, r[5])
  if r[7] then
    terminal(id, 'cancelled', r[7])
  elseif r[3] == '' then
    terminal(id, 'failed', r[6])
  else
    redis.call('HSET', job(id), 'state', r[4])
    park(id, r[2], NOW + tonumber(r[3]), 'retrying')
  end
  return true
end

local function settle_all(worker)
  local ids = {}
  for _, id in ipairs(redis.call('HKEYS', P .. 'worker:' .. worker)) do
    if settle(id, 'lost') then ids[#ids + 1] = id end
  end
  redis.call('DEL', P .. 'worker:' .. worker, P .. 'cancels:' .. worker)
  redis.call('ZREM', P .. 'workers', worker)
  return ids
end

-- Number the job's next publication, and give what is to be published.
local function take(id, route)
  local pseq, number = send(id, route)
  return {redis.call('HGET', job(id), 'message'), pseq, number, epoch()}
end

local function take_all(ids, route)
  local out = {}
  for _, id in ipairs(ids) do
    if redis.call('HEXISTS', job(id), 'message') == 1 then
      out[#out + 1] = take(id, route)
    else
      off_route(id, route)  -- the record is gone: nothing is left to run
    end
  end
  return out
end
