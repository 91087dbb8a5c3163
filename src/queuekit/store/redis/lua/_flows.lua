-- Put between the prelude and every operation: what the end of a job means for those that are joined to it.
-- Such a job has, besides what all have: parent, root, flow (ids); after, next, uses ('a,b': whose ends it waits for, who
-- waits for its end, whose results it takes); needs (how many that have not ended take its result), kept and stays (how
-- long its result, and its record, stay once nobody needs them); rule ('stop', 'skip': what its failure means to those
-- who wait for it), undoes (whose compensation it is), stopped (whose end has stopped it), kids (how many it has started).
-- What is to be done for many is an errand: in this step as many as LEFT says, the rest by whoever calls follow.
local TODO, AT, LEFT, BUSY = {}, 1, 200, false
local RANG, FROM = {}, nil  -- publications for the caller: those for the backend of the job FROM
local FORMING = 60000       -- ms in which a workflow is to be recorded whole
local UNTOLD = 10000        -- ids of jobs that errands have cancelled, kept for whoever tells the hooks
local ERRANDS = {}
local ENDED = {succeeded = true, failed = true, cancelled = true}

local function waits(id) return P .. 'waits:' .. id end
local function members(owner) return P .. 'members:' .. owner end
local function flow(id) return P .. 'flow:' .. id end

local function errand(kind, id, extra) TODO[#TODO + 1] = {kind, id, 1, extra or ''} end

local function run_errands()
  if BUSY then return end
  BUSY = true
  while AT <= #TODO and LEFT > 0 do
    local one = TODO[AT]
    one[3] = ERRANDS[one[1]](one[2], one[3], one[4])
    if not one[3] then AT = AT + 1 end
  end
  while AT <= #TODO do
    local one = TODO[AT]
    redis.call('RPUSH', P .. 'errands', one[1] .. '|' .. one[2] .. '|' .. int(one[3]) .. '|' .. one[4])
    AT = AT + 1
  end
  BUSY = false
end

local function untold(id)
  if redis.call('RPUSH', P .. 'untold', id) > UNTOLD then redis.call('LPOP', P .. 'untold') end
end

-- Of the list 'a,b,c' as many ids as may be looked at, from the byte `at` on; and where to go on.
local function some(list, at)
  local ids = {}
  while LEFT > 0 do
    local first, last, id = string.find(list, '([^,]+)', at)
    if not first then return ids end
    ids[#ids + 1], at, LEFT = id, last + 1, LEFT - 1
  end
  return ids, at <= #list and at or nil
end

local function some_members(owner, at)
  local ids = redis.call('LRANGE', members(owner), at - 1, at + LEFT - 2)
  LEFT = LEFT - #ids
  return ids, LEFT <= 0 and at + #ids or nil
end

-- Nobody is waited for any more.
local function let_go(id)
  local r = redis.call('HMGET', job(id), 'status', 'route', 'at', 'delay')
  if r[1] ~= 'waiting' then return end
  local route = r[2]
  local at = math.max(tonumber(r[3]) or 0, NOW + (tonumber(r[4]) or 0))
  if at > NOW then return park(id, route, at, 'scheduled') end
  redis.call('HSET', job(id), 'ready', int(NOW))
  local taken = take(id, route)
  local from = FROM and string.match(redis.call('HGET', job(FROM), 'route'), '^[^:]*:')
  if from and string.sub(route, 1, #from) == from then
    redis.call('ZADD', P .. 'outbox:' .. route, int(NOW + 1000), id)
    taken[5] = route
    RANG[#RANG + 1] = taken
  else
    redis.call('ZADD', P .. 'outbox:' .. route, int(NOW), id)  -- for the route's stewards, at once
  end
end

-- A set, so that an end that is told twice counts once.
local function need_not_wait(id, of)
  if redis.call('SREM', waits(id), of) == 1 and redis.call('SCARD', waits(id)) == 0 then let_go(id) end
end

local function spoilt(status, rule) return (status == 'failed' or status == 'cancelled') and rule ~= 'skip' end

-- It stays for as long as what has stopped it can be brought back.
local function stop(id, by)
  if redis.call('HGET', job(id), 'status') ~= 'waiting' then return end
  local cause = redis.call('HGET', job(by), 'stopped') or by
  redis.call('HSET', job(id), 'stopped', cause)
  redis.call('ZREM', P .. 'waiting', id)
  terminal(id, 'cancelled', 'stopped: job ' .. cause .. ' ' ..
           (redis.call('HGET', job(cause), 'status') == 'failed' and 'has failed' or 'was cancelled'), DEAD_TTL)
  untold(id)
end

function ERRANDS.ended(id, at)
  local r = redis.call('HMGET', job(id), 'status', 'rule', 'next')
  if not ENDED[r[1]] then return end  -- it was revived meanwhile
  local ids, rest = some(r[3] or '', at)
  for _, other in ipairs(ids) do
    if spoilt(r[1], r[2]) then stop(other, id) else need_not_wait(other, id) end
  end
  return rest
end

-- It takes no result any more. Where somebody may bring it back, those that it takes stay for as long as it does.
function ERRANDS.unneed(id, at)
  local r = redis.call('HMGET', job(id), 'status', 'stopped', 'uses')
  local keep = r[1] == 'succeeded' and 0 or (r[1] == 'failed' or r[2]) and DEAD_TTL or RETENTION
  local ids, rest = some(r[3] or '', at)
  for _, other in ipairs(ids) do
    if redis.call('EXISTS', job(other)) == 1 then
      local o = redis.call('HMGET', job(other), 'kept', 'stays', 'result_ttl')
      local kept = math.max(tonumber(o[1] or 0), keep)
      redis.call('HSET', job(other), 'kept', int(kept))
      if redis.call('HINCRBY', job(other), 'needs', -1) <= 0 and o[2] then
        redis.call('PEXPIRE', job(other), int(math.max(tonumber(o[2]), kept)))
        redis.call('PEXPIRE', P .. 'result:' .. other, int(math.max(tonumber(o[3]), kept)))
      end
    end
  end
  return rest
end

function ERRANDS.need(id, at)
  local ids, rest = some(redis.call('HGET', job(id), 'uses') or '', at)
  for _, other in ipairs(ids) do
    if redis.call('EXISTS', job(other)) == 1 then
      redis.call('HINCRBY', job(other), 'needs', 1)
      redis.call('PERSIST', job(other))
      redis.call('PERSIST', P .. 'result:' .. other)
    end
  end
  return rest
end

local function cancel_one(id, reason)
  local r = redis.call('HMGET', job(id), 'status', 'worker', 'route', 'kids')
  if not r[1] then return 'missing' end
  if ENDED[r[1]] then return 'ended' end
  if r[1] == 'running' then
    redis.call('HSETNX', job(id), 'cancel', reason)
    redis.call('SADD', P .. 'cancels:' .. r[2], id)
    if r[4] then errand('cancel', id, reason) end
    return 'requested'
  end
  off_route(id, r[3])
  terminal(id, 'cancelled', reason)
  return 'cancelled'
end

function ERRANDS.cancel(owner, at, reason)
  local ids, rest = some_members(owner, at)
  for _, id in ipairs(ids) do
    if string.sub(id, 1, 1) == '~' then
      errand('cancel', id, reason)
    elseif not redis.call('HGET', job(id), 'undoes') then
      if cancel_one(id, reason) == 'cancelled' then untold(id) end
    end
  end
  return rest
end

function ERRANDS.start(id, at)
  local ids, rest = some_members('~' .. id, at)
  for _, one in ipairs(ids) do need_not_wait(one, '^') end
  return rest
end

-- All of the workflow has ended. What was done is undone where something has stopped it.
function ERRANDS.verdict(id, at)
  local r = redis.call('HMGET', flow(id), 'undo', 'bad')
  local bad = tonumber(r[2] or 0) > 0
  local ids, rest = some(r[1] or '', at)
  for _, one in ipairs(ids) do
    local c = redis.call('HMGET', job(one), 'undoes', 'status')
    if bad and c[1] and redis.call('HGET', job(c[1]), 'status') == 'succeeded' then
      need_not_wait(one, '!')
    elseif c[2] == 'waiting' then
      redis.call('ZREM', P .. 'waiting', one)
      terminal(one, 'cancelled', bad and 'there is nothing to undo' or 'not needed: nothing has failed')
    end
  end
  return rest
end

-- A workflow that nobody has recorded whole: it was never accepted.
function ERRANDS.forget(id, at)
  local ids, rest = some_members('~' .. id, at)
  for _, one in ipairs(ids) do
    redis.call('UNLINK', job(one), waits(one))
    redis.call('ZREM', P .. 'waiting', one)
  end
  if rest then return rest end
  redis.call('UNLINK', members('~' .. id), flow(id))
end

-- Its job is wanted once more, or again: the workflow has not ended.
local function reopen(id, r)
  if not r.flow then return end
  redis.call('HINCRBY', flow(r.flow), 'open', 1)
  if r.rule ~= 'skip' and not r.undoes then redis.call('HINCRBY', flow(r.flow), 'bad', -1) end
  redis.call('PERSIST', flow(r.flow))
  redis.call('PERSIST', members('~' .. r.flow))
end

local function joins(id)
  local r = redis.call('HMGET', job(id), 'flow', 'rule', 'undoes', 'next', 'uses', 'after', 'needs', 'kept', 'kids')
  return {flow = r[1], rule = r[2], undoes = r[3], next = r[4], uses = r[5], after = r[6],
          needs = tonumber(r[7] or 0), kept = tonumber(r[8] or 0), kids = r[9]}
end

local function undoing(r) return r.flow and redis.call('HGET', flow(r.flow), 'phase') == 'undo' end

-- The job was revived, and is queued: what its end has stopped waits for it again.
local function revived(id)
  local r = joins(id)
  reopen(id, r)
  if r.kids then redis.call('PERSIST', members(id)) end
  if r.flow then redis.call('PERSIST', waits(id)) end
  redis.call('HDEL', job(id), 'stopped', 'stays')
  if r.uses then errand('need', id) end
  if r.next and not undoing(r) then errand('back', id) end
  run_errands()
end

function ERRANDS.back(id, at)
  local ids, rest = some(redis.call('HGET', job(id), 'next') or '', at)
  for _, other in ipairs(ids) do
    local o = redis.call('HMGET', job(other), 'status', 'stopped', 'created')
    if o[1] == 'cancelled' and o[2] then
      local by
      for _, one in ipairs(redis.call('SMEMBERS', waits(other))) do
        local w = redis.call('HMGET', job(one), 'status', 'rule')
        if spoilt(w[1], w[2]) and (not by or one < by) then by = one end
      end
      if by then
        redis.call('HSET', job(other), 'stopped', by)
      else
        redis.call('HSET', job(other), 'status', 'waiting', 'state', '')
        redis.call('HDEL', job(other), 'finished', 'reason', 'cancel', 'expires')
        redis.call('PERSIST', job(other))
        redis.call('ZREM', P .. 'cancelled', other)
        redis.call('ZADD', P .. 'waiting', o[3], other)
        revived(other)
      end
    end
  end
  return rest
end

-- All jobs of the workflow have ended; of its compensations those that are to run are open from here on.
local function all_ended(id)
  local f = redis.call('HMGET', flow(id), 'undo', 'phase', 'early')
  local left = 0
  if f[1] and not f[2] then
    local _, commas = string.gsub(f[1], ',', '')
    left = commas + 1 - tonumber(f[3] or 0)
    redis.call('HSET', flow(id), 'phase', 'undo', 'open', left)
    errand('verdict', id)
  end
  if left == 0 then
    local keep = int(math.max(RETENTION, DEAD_TTL))
    redis.call('PEXPIRE', flow(id), keep)
    redis.call('PEXPIRE', members('~' .. id), keep)
  end
end

-- Called by every step that ends a job.
function joined_end(id, status, reason, stays)
  local r = joins(id)
  stays = tonumber(stays)
  if r.kids then redis.call('PEXPIRE', members(id), int(stays)) end
  if r.flow then redis.call('PEXPIRE', waits(id), int(stays)) end
  if r.needs > 0 or r.kept > 0 then
    redis.call('HSET', job(id), 'stays', int(stays))
    if r.needs > 0 then redis.call('PERSIST', job(id)) else redis.call('PEXPIRE', job(id), int(math.max(stays, r.kept))) end
  end
  if r.next then errand('ended', id) end
  if r.uses then errand('unneed', id) end
  if r.kids and status == 'cancelled' then errand('cancel', id, reason) end
  if r.flow and r.undoes and not undoing(r) then
    redis.call('HINCRBY', flow(r.flow), 'early', 1)  -- somebody has cancelled it: it is not among the open ones yet
  elseif r.flow then
    if not r.undoes and spoilt(status, r.rule) then redis.call('HINCRBY', flow(r.flow), 'bad', 1) end
    if redis.call('HINCRBY', flow(r.flow), 'open', -1) == 0 then all_ended(r.flow) end
  end
  run_errands()
end

-- The parent in whose name a job is recorded runs no more under this fence.
local function not_its_parent(parent, fence)
  local r = redis.call('HMGET', job(parent), 'status', 'fence')
  return r[1] ~= 'running' or r[2] ~= fence
end

-- Note that the parent has started it, or '~' and the workflow; and give the root.
local function adopt(parent, id)
  redis.call('RPUSH', members(parent), id)
  redis.call('HINCRBY', job(parent), 'kids', 1)
  redis.call('HSET', job(parent), 'v', JOINED)
  return redis.call('HGET', job(parent), 'root') or parent
end
