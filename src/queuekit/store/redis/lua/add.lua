-- create_many of jobs that may run at once, have neither key, ties nor end, and are published here, by commands of one form:
-- most are such. It writes what that would, in a third of the time, after _head.lua alone.
-- 1 how many; 2 how many commands publish one; of each of those, how many words it has, and the words: '\0' is one that each
-- job has of its own, '\1' the doorbell. Then of each job its id, message, digest, route, token and result_ttl, and its own
-- words; for the doorbell three: what stands before the pseq, between that and the epoch, and behind.
-- The moment and the epoch, and where whoever asked has to publish them also the pseq of each. Nothing: create_many is to
-- be asked.
local epoch = redis.call('HGET', P .. 'meta', 'epoch')
if not epoch then return false end

local count, kinds, at = tonumber(A(1)), tonumber(A(2)), 7
local commands, own, bell = {}, {}, nil
for kind = 1, kinds do
  local words, command = tonumber(ARGV[at + 1]), {}
  at = at + 1
  for k = 1, words do
    local word = ARGV[at + k]
    command[k] = word
    if word == '\0' or word == '\1' then own[#own + 1] = {command, k} end
    if word == '\1' then bell = #own end
  end
  commands[kind] = command
  at = at + words
end
local each = 6 + #own + 2

local seen, free = {}, {}  -- of each route, how many there are, and then the number of the next publication
for i = 0, count - 1 do
  local id, route = ARGV[at + i * each + 1], ARGV[at + i * each + 4]
  if seen[id] or redis.call('EXISTS', job(id)) == 1 then return false end  -- before anything is written: all or nothing
  seen[id], free[route] = true, (free[route] or 0) + 1
end
local queued = {}
for route, some in pairs(free) do
  free[route] = redis.call('HINCRBY', P .. 'route:' .. route, 'pseq', some) - some + 1
  if free[route] == 1 then redis.call('SADD', P .. 'routes', route) end
  queued[route] = {'ZADD', P .. 'queued:' .. route}
end

-- Commands that differ behind their key alone are one for all jobs, which costs the server as much as the first did; and
-- one that does not differ is given once.
local first, many = {}, {}  -- of each command its first word that differs, and what is given for all
for _, place in ipairs(own) do first[place[1]] = first[place[1]] or place[2] end
for kind, command in ipairs(commands) do
  if (first[command] or 3) > 2 then many[kind] = {command[1], command[2]} end
end

local now, well, waiting = int(NOW), true, {'ZADD', P .. 'waiting'}
local function run(command)
  local said = well and redis.pcall(unpack(command))
  well = well and not (type(said) == 'table' and said.err)
end

local answer = {now, epoch}
for i = 0, count - 1 do
  local from = at + i * each
  local id, route = ARGV[from + 1], ARGV[from + 4]
  local pseq = int(free[route])
  free[route] = free[route] + 1
  redis.call('HSET', job(id), 'token', ARGV[from + 5], 'v', RECORD, 'created', now, 'status', 'queued', 'attempt', '0',
             'runs', '0', 'state', '', 'message', ARGV[from + 2], 'digest', ARGV[from + 3], 'route', route, 'result_ttl',
             ARGV[from + 6], 'publications', '1', 'pseq', pseq)
  local here = queued[route]
  here[#here + 1], here[#here + 2] = pseq, id
  waiting[#waiting + 1], waiting[#waiting + 2] = now, id
  answer[i + 3] = pseq

  from = from + 6
  for k, place in ipairs(own) do
    local word = ARGV[from + k]
    if k == bell then
      word = word .. pseq .. ARGV[from + k + 1] .. epoch .. ARGV[from + k + 2]
      from = from + 2
    end
    place[1][place[2]] = word
  end
  for kind, command in ipairs(commands) do
    local all = many[kind]
    if not all then
      run(command)
    elseif i == 0 or first[command] then
      for k = 3, #command do all[#all + 1] = command[k] end
    end
  end
end
for _, command in pairs(queued) do redis.call(unpack(command)) end
redis.call(unpack(waiting))
for kind = 1, kinds do
  if many[kind] then run(many[kind]) end
end

if well then return now .. ' ' .. epoch end
for i = 0, count - 1 do  -- whoever asked publishes them, by what it may do; one that is there twice is dropped
  redis.call('ZADD', P .. 'outbox:' .. ARGV[at + i * each + 4], int(NOW + OUTBOX), ARGV[at + i * each + 1])
end
return table.concat(answer, ' ')  -- as one text: redis-py takes its time over a list
