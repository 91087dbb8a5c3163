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
local TRIM = 1000     -- of what has expired, so much is cleared away in one step
local RECORD = 1      -- the version of the records that are written here; before it they were not numbered

local function A(i) return ARGV[5 + i] end
local function int(n) return string.format('%.0f', n) end
local function job(id) return P .. 'job:' .. id end

-- What every version shares, so that any of them may list, publish, cancel, fail and revive a job: message, route,
-- status, created, finished, reason, expires, cancel, result_ttl, pseq, publications, attempt, runs, start<N>, end<N>, v.
-- `suspect` came later: a record without it is of a job that is none.
-- The rest (fences, states, plans) is read and written by whoever knows the version. One version before is brought up by
-- its function; of any other one the answer is false, and nothing has been touched.
local UPGRADES = {[0] = function(id) end}
local function readable(id, v)
  v = tonumber(v or 0)
  if v == RECORD then return true end
  if v ~= RECORD - 1 then return false end
  UPGRADES[v](id)
  redis.call('HSET', job(id), 'v', RECORD)
  return true
end

local function epoch()
  local known = redis.call('HGET', P .. 'meta', 'epoch')
  if known then return known end
  redis.call('HSET', P .. 'meta', 'epoch', ARGV[3])
  return ARGV[3]
end

-- It waits no longer: it starts, it ends, or its record is gone.
local function off_route(id, route)
  redis.call('ZREM', P .. 'due:' .. route, id)
  redis.call('ZREM', P .. 'queued:' .. route, id)
  redis.call('ZREM', P .. 'outbox:' .. route, id)
  redis.call('ZREM', P .. 'waiting', id)
end

-- Number a publication of a job that is not parked: it is queued, and in the outbox until somebody says that the broker has it.
local function send(id, route)
  local pseq = redis.call('HINCRBY', P .. 'route:' .. route, 'pseq', 1)
  local number = redis.call('HINCRBY', job(id), 'publications', 1)
  redis.call('HSET', job(id), 'status', 'queued', 'pseq', pseq)
  redis.call('ZADD', P .. 'queued:' .. route, pseq, id)
  redis.call('ZADD', P .. 'outbox:' .. route, NOW + OUTBOX, id)
  return pseq, number
end

local function park(id, route, at, status)
  redis.call('HSET', job(id), 'status', status, 'ready', int(at))
  redis.call('ZADD', P .. 'due:' .. route, int(at), id)
  redis.call('ZADD', P .. 'waiting', redis.call('HGET', job(id), 'created'), id)
end

-- Whether this step may be taken: only by the holder of the fence, who runs the job by this very token. The answer, where
-- it may not: 0, or what this very step was answered before, since a reply can be lost: 1, or the reason of the cancel.
-- Else nothing, and the run that is to be ended.
local function fenced(id, token, op)
  local r = redis.call('HMGET', job(id), 'status', 'fence', 'ended', 'reason', 'runs', 'worker', 'cancel')
  if r[3] == token .. ':' .. op then return 1 end
  if r[3] == token .. ':' .. op .. '-cancelled' then return r[4] end
  if r[1] ~= 'running' or r[2] ~= token then return 0 end
  return nil, {number = r[5], worker = r[6], cancel = r[7]}
end

local function end_attempt(id, token, op, text, run)
  redis.call('HSET', job(id), 'end' .. run.number, int(NOW) .. '|' .. text, 'ended', token .. ':' .. op)
  redis.call('HDEL', job(id), 'fence', 'lost_delay', 'lost_state', 'lost_end', 'lost_reason', 'lost_spare',
             'limit_delay', 'limit_state', 'limit_end', 'limit_reason')
  redis.call('ZREM', P .. 'deadlines', id)
  redis.call('ZREM', P .. 'running', id)
  redis.call('HDEL', P .. 'worker:' .. run.worker, id)
  if run.cancel then redis.call('SREM', P .. 'cancels:' .. run.worker, id) end
end

-- The job has ended. It is on no route any more: its attempt has ended, or it was taken off. `keep`: how long its record
-- stays, where that is not as its status says.
local function terminal(id, status, reason, keep)
  redis.call('HSET', job(id), 'status', status, 'finished', int(NOW), 'reason', reason)
  redis.call('HDEL', job(id), 'suspect')
  redis.call('ZADD', P .. status, int(NOW), id)
  redis.call('PEXPIRE', job(id), int(keep or (status == 'failed' and DEAD_TTL) or RETENTION))
end

-- End an attempt after which the job would go on; where somebody wants it cancelled, it ends instead. The reason then.
local function end_or_cancel(id, token, op, text, run)
  end_attempt(id, token, run.cancel and op .. '-cancelled' or op, text, run)
  if run.cancel then terminal(id, 'cancelled', run.cancel) end
  return run.cancel
end

-- End an attempt that its worker cannot end, by the plan that the policy made when it was claimed. False: there was
-- nothing to end; nil: the record is of another version, whose stewards do it.
-- `company`: how many other attempts died with it, where it was lost. Which one killed them nobody can tell: all are
-- suspects, which run alone from here on, and a plan that would end the job is not applied. Twice at most: then it had
-- no other suspect of that kind beside it (see claim), and ends.
local function settle(id, plan, company)
  local r = redis.call('HMGET', job(id), 'fence', 'route', plan .. '_delay', plan .. '_state', plan .. '_end',
                       plan .. '_reason', 'cancel', 'v', 'status', 'runs', 'worker', 'suspect', plan .. '_spare')
  if r[9] and not readable(id, r[8]) then return nil end
  if not r[1] then
    -- the record is gone (evicted, deleted by hand): one such must not stop the reaper for all others
    redis.call('ZREM', P .. 'deadlines', id)
    redis.call('ZREM', P .. 'running', id)
    return false
  end
  local text, level = r[5], tonumber(r[12] or 0)
  local spared = company and company > 0 and level < 2 and not r[7] and r[3] == '' and r[13] == '1'
  if spared then
    text = string.format('{"outcome":"released","category":"lost","company":%d,"reason":"its worker died with %d %s ' ..
                         'running: it does not count, and the job runs alone next"}',
                         company, company, company == 1 and 'other' or 'others')
  elseif company and company > 0 then
    text = string.sub(text, 1, -2) .. ',"company":' .. int(company) .. '}'
  end
  end_attempt(id, r[1], plan, text, {number = r[10], worker = r[11], cancel = r[7]})
  if company then
    redis.call('HSET', job(id), 'suspect', company > 0 and math.min(level + 1, 2) or math.max(level, 1))
  end
  if r[7] then
    terminal(id, 'cancelled', r[7])
  elseif spared then
    redis.call('HINCRBY', job(id), 'attempt', -1)
    park(id, r[2], NOW, 'queued')
  elseif r[3] == '' then
    terminal(id, 'failed', r[6])
  else
    redis.call('HSET', job(id), 'state', r[4])
    park(id, r[2], NOW + tonumber(r[3]), 'retrying')
  end
  return true
end

local function settle_all(worker)
  local ids, left = {}, false
  local held = redis.call('HKEYS', P .. 'worker:' .. worker)
  for _, id in ipairs(held) do
    local ended = settle(id, 'lost', #held - 1)
    if ended then ids[#ids + 1] = id end
    if ended == nil then
      left = true
    else
      redis.call('HDEL', P .. 'worker:' .. worker, id)
    end
  end
  if left then return ids end
  redis.call('DEL', P .. 'worker:' .. worker, P .. 'cancels:' .. worker)
  redis.call('ZREM', P .. 'workers', worker)
  redis.call('HDEL', P .. 'consumers', worker)
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
