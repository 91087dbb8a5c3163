-- 1 statuses ('a,b'; '' = all), 2 task, 3 queue, 4 backend ('' = any), 5 newest first ('1' or ''),
-- 6 and 7 the moment and the id to go on after ('' = from the start), 8 how many to give, 9 how many to look at
-- It only reads. The indexes are merged by moment and id; what is looked at is bounded, in jobs and in bytes, so that a
-- page may be short, or empty, and still not be the last.
local BYTES, CHUNK = 4194304, 50
local HOME = {waiting = 'waiting', scheduled = 'waiting', queued = 'waiting', retrying = 'waiting', running = 'running',
              succeeded = 'succeeded', cancelled = 'cancelled', failed = 'failed'}
local KEEP = {succeeded = RETENTION, cancelled = RETENTION, failed = DEAD_TTL}
local all, wanted, newest = A(1) == '', {}, A(5) == '1'
for status in string.gmatch(A(1), '[^,]+') do wanted[status] = true end

-- As the server orders members, by bytes: `<` would ask its locale.
local function less(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- How many entries stand before (moment, id), by halving those of the same moment.
local function rank(key, moment, id)
  local low = redis.call('ZCOUNT', key, '-inf', '(' .. moment)
  local high = redis.call('ZCOUNT', key, '-inf', moment)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if less(redis.call('ZRANGE', key, middle, middle)[1], id) then low = middle + 1 else high = middle end
  end
  return low
end

local function fill(source)
  local command = newest and 'ZREVRANGE' or 'ZRANGE'
  source.rows = redis.call(command, source.key, source.from, source.from + CHUNK - 1, 'WITHSCORES')
  source.from, source.i = source.from + CHUNK, 1
end

local function open(home)
  local source = {key = P .. home, keep = KEEP[home], from = 0}
  if A(6) ~= '' then
    local before = rank(source.key, A(6), A(7))
    if newest then
      source.from = redis.call('ZCARD', source.key) - before
    else
      local at = redis.call('ZRANGE', source.key, before, before, 'WITHSCORES')
      local seen = at[1] == A(7) and tonumber(at[2]) == tonumber(A(6))
      source.from = seen and before + 1 or before
    end
  end
  fill(source)
  return source
end

local sources, opened = {}, {}
for status, home in pairs(HOME) do
  if (all or wanted[status]) and not opened[home] then
    opened[home] = true
    sources[#sources + 1] = open(home)
  end
end

-- Take the next of all sources: its id, its moment, its source.
local function next_one()
  local best, id, moment
  for _, source in ipairs(sources) do
    if source.i > #source.rows and #source.rows > 0 then fill(source) end
    local mine, at = source.rows[source.i], tonumber(source.rows[source.i + 1])
    if mine then
      local first = not best
      if best and at ~= moment then
        first = (at < moment) ~= newest
      elseif best then
        first = less(mine, id) ~= newest
      end
      if first then best, id, moment = source, mine, at end
    end
  end
  if best then best.i = best.i + 2 end
  return id, moment, best
end

local rows, looked, bytes = {}, 0, 0
local last_id, last_moment = '', ''
while #rows < tonumber(A(8)) and looked < tonumber(A(9)) and bytes < BYTES do
  local id, moment, source = next_one()
  if not id then return {'', '', rows} end
  looked, last_id, last_moment = looked + 1, id, int(moment)
  local r = redis.call('HMGET', job(id), 'status', 'route', 'attempt', 'created', 'started', 'finished', 'reason',
                       'worker', 'ready')
  local backend, queue = string.match(r[2] or '', '^([^:]*):([^:]*):')
  if r[1] and (all or wanted[r[1]]) and (A(3) == '' or A(3) == queue) and (A(4) == '' or A(4) == backend)
     and not (source.keep and moment <= NOW - source.keep) then
    local message = redis.call('HGET', job(id), 'message')
    bytes = bytes + #message
    local task = string.match(message, '^{"id":"[^"]*","task":"([^"]*)"') or ''
    if A(2) == '' or A(2) == task then rows[#rows + 1] = {id, task, last_moment, unpack(r, 1, 9)} end
  end
end
return {last_moment, last_id, rows}
