-- 1 id, 2 epoch, 3 pseq, 4 route, 5 worker, 6 process, 7 token, 8 hard limit in ms ('' = none), 9 seen,
-- 10-13 if lost: delay, state, end, reason, 14-17 if over the limit: the same, 18 the grace of what is not known here,
-- 19 whether a lost attempt may be spared ('1' or ''), 20 whether the process runs nothing else ('1' or '')
local id, token, worker = A(1), A(7), A(5)
local r = redis.call('HMGET', job(id), 'status', 'fence', 'route', 'state', 'expires', 'message', 'reason', 'attempt',
                     'created', 'result_ttl', 'runs', 'ended', 'v', 'unread', 'ready', 'suspect')
local status, route = r[1], r[3]
if not status then
  if epoch() == A(2) then return {'missing'} end
  return {'store_lost', epoch()}
end
if route == A(4) then
  local now_at = redis.call('HMGET', P .. 'route:' .. route, 'mark', 'pseq')
  local seen = math.min(tonumber(A(3)), tonumber(now_at[2] or 0))
  if seen > tonumber(now_at[1] or 0) then redis.call('HSET', P .. 'route:' .. route, 'mark', int(seen)) end
end
local function claimed(number, started)
  return {'claimed', r[6], number, started, r[9], r[4], r[10], r[15] or r[9]}
end
if status == 'running' then
  if r[2] == token then
    return claimed(tonumber(r[8]), redis.call('HGET', job(id), 'started'))
  end
  return {'busy'}
end
if status == 'cancelled' then return {'cancelled', r[7]} end
if status == 'succeeded' or status == 'failed' then return {'done', status} end
if status == 'waiting' then return {'early', int(NOW)} end  -- for others: whoever ends last sends the doorbell
-- a request that arrives after its attempt was ended: nobody waits for the answer, and a fence is valid once
if r[12] and string.sub(r[12], 1, #token + 1) == token .. ':' then return {'busy'} end
local due = redis.call('ZSCORE', P .. 'due:' .. route, id)
if due and tonumber(due) > NOW then return {'early', int(tonumber(due))} end
if r[5] and tonumber(r[5]) <= NOW and r[8] == '0' then
  off_route(id, route)
  terminal(id, 'cancelled', 'expired before it started')
  return {'cancelled', 'expired before it started', 1}
end
if not readable(id, r[13]) then
  redis.call('HSETNX', job(id), 'unread', int(NOW))
  local waited = NOW - tonumber(r[14] or NOW)
  if waited >= tonumber(A(18)) then
    off_route(id, route)
    terminal(id, 'failed', 'no worker reads records of version ' .. (r[13] or '0'))
    return {'unreadable', r[13] or '0', 1}
  end
  off_route(id, route)
  park(id, route, NOW + math.min(math.max(waited, 1000), 300000), 'queued')
  return {'unreadable', r[13] or '0', 0}
end
local lease = redis.call('ZSCORE', P .. 'workers', worker)
if not lease or tonumber(lease) <= NOW then return {'no_lease'} end
local suspect = tonumber(r[16] or 0)
if suspect >= 2 then  -- one at a time: when all of a worker dies again, it was this one
  for _, other in ipairs(redis.call('HKEYS', P .. 'worker:' .. worker)) do
    if tonumber(redis.call('HGET', job(other), 'suspect') or 0) >= 2 then
      off_route(id, route)
      park(id, route, NOW + 1000, 'queued')
      return {'suspect', r[6], 1}
    end
  end
end
if suspect > 0 and A(20) == '' then return {'suspect', r[6], 0} end
if r[4] ~= A(9) then return {'unseen', r[4], r[6]} end

off_route(id, route)
if r[14] then redis.call('HDEL', job(id), 'unread') end
local number, run = tonumber(r[8]) + 1, tonumber(r[11]) + 1
redis.call('HSET', job(id), 'status', 'running', 'fence', token, 'worker', worker, 'attempt', number, 'runs', run,
           'started', int(NOW), 'start' .. run, int(NOW) .. '|' .. number .. '|' .. worker,
           'lost_delay', A(10), 'lost_state', A(11), 'lost_end', A(12), 'lost_reason', A(13),
           'limit_delay', A(14), 'limit_state', A(15), 'limit_end', A(16), 'limit_reason', A(17),
           'lost_spare', A(19))
redis.call('ZADD', P .. 'running', r[9], id)
redis.call('HSET', P .. 'worker:' .. worker, id, A(6))
if A(8) ~= '' then redis.call('HSET', job(id), 'limit_at', int(NOW + tonumber(A(8)))) end
return claimed(number, int(NOW))
