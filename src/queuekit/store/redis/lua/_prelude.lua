-- Put after _head.lua and before every operation but add: what they share.
local function steps(id) return P .. 'steps:' .. id end

-- What every version shares, so that any of them may list, publish, cancel, fail and revive a job: message, route,
-- status, created, finished, reason, expires, cancel, result_ttl, pseq, publications, attempt, runs, start<N>, end<N>, v.
-- `suspect` came later: a record without it is of a job that is none. So did `step_bytes`, `progress`
-- and the key of the steps; `key`, `key_until`, `replaced` and `put_off`.
-- The rest (fences, states, plans) is read and written by whoever knows the version. One version before is brought up by
-- its function; of any other one the answer is false, and nothing has been touched.
local UPGRADES = {[0] = function(id) end}
local function readable(id, v)
  v = tonumber(v or 0)
  if v == RECORD or v == JOINED then return true end
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

-- The job that holds the unique key: the one that was enqueued with it, until that has ended, and until `key_until`
-- unless it was cancelled. One whose record is gone holds nothing, nor does one that was ended by an earlier version.
local function holder(key)
  local id = redis.call('GET', P .. 'key:' .. key)
  if not id then return nil end
  local r = redis.call('HMGET', job(id), 'key', 'status', 'finished', 'key_until')
  if r[1] ~= key or (r[3] and (r[2] == 'cancelled' or tonumber(r[4] or 0) <= NOW)) then return nil end
  return id
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
             'limit_at', 'limit_delay', 'limit_state', 'limit_end', 'limit_reason')
  redis.call('ZREM', P .. 'running', id)
  redis.call('HDEL', P .. 'worker:' .. run.worker, id)
  if run.cancel then redis.call('SREM', P .. 'cancels:' .. run.worker, id) end
end

local joined_end  -- of _flows.lua: what the end means for others

-- The job has ended. It is on no route any more: its attempt has ended, or it was taken off. `keep`: how long its record
-- stays, where that is not as its status says.
local function terminal(id, status, reason, keep)
  redis.call('HSET', job(id), 'status', status, 'finished', int(NOW), 'reason', reason)
  redis.call('HDEL', job(id), 'suspect')
  redis.call('ZADD', P .. status, int(NOW), id)
  local stays = keep or (status == 'failed' and DEAD_TTL) or RETENTION
  local r = redis.call('HMGET', job(id), 'key', 'key_until')
  if r[1] and redis.call('GET', P .. 'key:' .. r[1]) == id then
    local left = status == 'cancelled' and 0 or tonumber(r[2] or 0) - NOW
    if left > 0 then
      redis.call('PEXPIRE', P .. 'key:' .. r[1], int(left))
      stays = math.max(stays, left)
    else
      redis.call('DEL', P .. 'key:' .. r[1])
    end
  end
  stays = int(stays)
  redis.call('PEXPIRE', job(id), stays)
  if status == 'succeeded' then
    redis.call('UNLINK', steps(id))  -- nobody comes back to them
  else
    redis.call('PEXPIRE', steps(id), stays)
  end
  joined_end(id, status, reason, stays)
end

-- A step's field is NUMBER|ATTEMPT|AT| and 'begun', or '=' and the result. What begin_step, keep_step and forget_step
-- answer where there is nothing for them to do: 0, since the fence is not theirs, or the step's field, which has a result.
-- Else nothing, the field's beginning, and how many bytes the results take so far.
local function step(id, token, name, number)
  local r = redis.call('HMGET', job(id), 'status', 'fence', 'attempt', 'step_bytes')
  if r[1] ~= 'running' or r[2] ~= token then return 0 end
  local old = redis.call('HGET', steps(id), name)
  if old and not string.find(old, '^%d*|%d+|%d+|begun$') then return old end
  return nil, (number or '') .. '|' .. r[3] .. '|' .. int(NOW) .. '|', tonumber(r[4] or 0)
end

-- End an attempt after which the job would go on; where somebody wants it cancelled, it ends instead. The reason then.
local function end_or_cancel(id, token, op, text, run)
  end_attempt(id, token, run.cancel and op .. '-cancelled' or op, text, run)
  if run.cancel then terminal(id, 'cancelled', run.cancel) end
  return run.cancel
end

-- End an attempt whose process has died, by the plan that the policy made when it was claimed; the name of the plan.
-- False: there was nothing to end; nil: the record is of another version, whose stewards do it.
-- One that was over its hard limit at that moment has ended by it ('limit'): its process was ended for it. The others
-- were lost. `at`: when the process was last known to live.
-- `company`: how many other attempts died with it. Which one killed them nobody can tell: all that were lost are
-- suspects, which run alone from here on, and a plan that would end the job is not applied. Twice at most: then it had
-- no other suspect of that kind beside it (see claim), and ends.
local function settle(id, company, at)
  local plan, over = 'lost', redis.call('HGET', job(id), 'limit_at')
  if over and tonumber(over) <= at then plan, company = 'limit', nil end
  local r = redis.call('HMGET', job(id), 'fence', 'route', plan .. '_delay', plan .. '_state', plan .. '_end',
                       plan .. '_reason', 'cancel', 'v', 'status', 'runs', 'worker', 'suspect', plan .. '_spare')
  if r[9] and not readable(id, r[8]) then return nil end
  if not r[1] then
    -- the record is gone (evicted, deleted by hand): one such must not stop the reaper for all others
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
  return plan
end

-- The attempts of a worker that is gone: their ids, each with the plan that it has ended by.
local function settle_all(worker, at)
  local ids, left = {}, false
  local held = redis.call('HKEYS', P .. 'worker:' .. worker)
  for _, id in ipairs(held) do
    local ended = settle(id, #held - 1, at)
    if ended then ids[#ids + 1] = {id, ended == 'limit' and 'time_limit' or 'lost'} end
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

-- What a request asks of the job `j.id`, which is there and on no route. Its publication, where that is to be made now.
-- All of `j` as it came: id, message, digest, route, ttl, expires, expires_in, key, key_ttl; `at` a moment; `parked`: it
-- is left to take_due, also where that moment has come; `elsewhere`: it is left to the stewards of its backend, at once.
local function ask(j)
  local id, route = j.id, j.route
  redis.call('HSET', job(id), 'message', j.message, 'digest', j.digest, 'route', route, 'result_ttl', j.ttl)
  local expires = tonumber(j.expires) or (tonumber(j.expires_in) and NOW + tonumber(j.expires_in))
  if expires then redis.call('HSET', job(id), 'expires', int(expires)) end
  if j.key ~= '' and j.key_ttl ~= '' then redis.call('HSET', job(id), 'key_until', int(NOW + tonumber(j.key_ttl))) end
  redis.call('SADD', P .. 'routes', route)
  if j.parked or j.at > NOW then
    park(id, route, j.at, 'scheduled')
    return 0, 0
  end
  local pseq, number = send(id, route)
  redis.call('ZADD', P .. 'waiting', redis.call('HGET', job(id), 'created'), id)
  if j.elsewhere then
    redis.call('ZADD', P .. 'outbox:' .. route, int(NOW), id)
    pseq = 0
  end
  return pseq, number
end

-- Record a job of whose id there is none, unless another one holds its key. Its publication, and which job was cancelled
-- for it; or nil, the job that holds the key, and whether that can be put off. `j.held`: see NewJob.if_held.
local function make(j, token)
  local other = j.key ~= '' and holder(j.key)
  if other then
    local r = redis.call('HMGET', job(other), 'runs', 'finished', 'route')
    local waits = r[1] == '0' and not r[2]
    if not waits or j.held ~= 'replace' then return nil, other, waits and j.held == 'debounce' end
    off_route(other, r[3])
    terminal(other, 'cancelled', 'replaced by job ' .. j.id)
  end
  redis.call('HSET', job(j.id), 'token', token, 'v', RECORD, 'created', int(NOW), 'status', 'scheduled', 'attempt', 0,
             'runs', 0, 'state', '')
  if j.key ~= '' then
    redis.call('HSET', job(j.id), 'key', j.key)
    redis.call('SET', P .. 'key:' .. j.key, j.id)
    if other then redis.call('HSET', job(j.id), 'replaced', other) end
  end
  local pseq, number = ask(j)
  return {pseq, number}, other or nil
end
