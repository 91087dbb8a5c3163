-- create_many of jobs that may run at once, have neither key, ties nor end, and are published here: most are such. It
-- writes what that would, in a third of the time, after _head.lua alone.
-- 1 how many; 2 and 3 the command and the argument of it in which pseq and epoch stand; 4 how many commands publish one,
-- followed by how many arguments each has. Then of each job its id, message, digest, route, token and result_ttl, and the
-- arguments, of which the one with pseq and epoch are three: what stands before them, between them and behind.
-- The moment and the epoch, and where whoever asked has to publish them also the pseq of each. Nothing: create_many is to
-- be asked.
local epoch = redis.call('HGET', P .. 'meta', 'epoch')
if not epoch then return false end

local count, marked, place, kinds = tonumber(A(1)), tonumber(A(2)), tonumber(A(3)), tonumber(A(4))
local start = 5 + 4 + kinds
local each, lengths = 6 + 2, {}
for kind = 1, kinds do
  lengths[kind] = tonumber(A(4 + kind))
  each = each + lengths[kind]
end

local seen, free = {}, {}  -- of each route, how many there are, and then the number of the next publication
for i = 1, count do
  local from = start + (i - 1) * each
  local id, route = ARGV[from + 1], ARGV[from + 4]
  if seen[id] or redis.call('EXISTS', job(id)) == 1 then return false end  -- before anything is written: all or nothing
  seen[id], free[route] = true, (free[route] or 0) + 1
end
local queued = {}
for route, some in pairs(free) do
  free[route] = redis.call('HINCRBY', P .. 'route:' .. route, 'pseq', some) - some + 1
  if free[route] == 1 then redis.call('SADD', P .. 'routes', route) end
  queued[route] = {'ZADD', P .. 'queued:' .. route}
end

local now, well, waiting, held = int(NOW), true, {'ZADD', P .. 'waiting'}, {}

local function run(command)
  local said = well and redis.pcall(unpack(command))
  well = well and not (type(said) == 'table' and said.err)
end

-- Of commands that take many, those of all jobs are one: it costs the server as much as the first.
local MANY = {RPUSH = true, LPUSH = true, SADD = true, HSET = true}
local function publish(kind, command)
  local before = held[kind]
  if not (before and before[2] == command[2] and MANY[command[1]]) then
    if before then run(before) end
    held[kind] = command
  elseif command[1] ~= 'SADD' or before[#before] ~= command[3] then
    for k = 3, #command do before[#before + 1] = command[k] end
  end
end

local answer = {now, epoch}
for i = 1, count do
  local from = start + (i - 1) * each
  local id, route = ARGV[from + 1], ARGV[from + 4]
  local pseq = int(free[route])
  free[route] = free[route] + 1
  redis.call('HSET', job(id), 'token', ARGV[from + 5], 'v', RECORD, 'created', now, 'status', 'queued', 'attempt', '0',
             'runs', '0', 'state', '', 'message', ARGV[from + 2], 'digest', ARGV[from + 3], 'route', route, 'result_ttl',
             ARGV[from + 6], 'publications', '1', 'pseq', pseq)
  local here = queued[route]
  here[#here + 1], here[#here + 2] = pseq, id
  waiting[#waiting + 1], waiting[#waiting + 2] = now, id
  answer[i + 2] = pseq

  from = from + 6
  for kind = 1, kinds do
    local command = {}
    for k = 1, lengths[kind] do
      from = from + 1
      if kind == marked and k == place then
        command[k] = ARGV[from] .. pseq .. ARGV[from + 1] .. epoch .. ARGV[from + 2]
        from = from + 2
      else
        command[k] = ARGV[from]
      end
    end
    publish(kind, command)
  end
end
for _, command in pairs(queued) do redis.call(unpack(command)) end
redis.call(unpack(waiting))
for kind = 1, kinds do run(held[kind]) end

if well then return now .. ' ' .. epoch end
for i = 1, count do  -- whoever asked publishes them, by what it may do; one that is there twice is dropped
  local from = start + (i - 1) * each
  redis.call('ZADD', P .. 'outbox:' .. ARGV[from + 4], int(NOW + OUTBOX), ARGV[from + 1])
end
return table.concat(answer, ' ')  -- as one text: redis-py takes its time over a list
