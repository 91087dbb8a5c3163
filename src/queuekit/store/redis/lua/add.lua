-- create_many of jobs that may run at once, have neither key, ties nor end, and are published here: most are such. It
-- writes what that would, in half the time, after _head.lua alone.
-- 1 what there is of all of them, one after the other; 2 how many bytes each part has, as JSON: of each job its id, message,
-- digest, route, token and result_ttl; then of each the arguments of its commands; of the argument where its pseq and the
-- epoch go a list: before the first, between, after the second, and 1 where the epoch is the first. (As two arguments:
-- redis-py takes its time over many. Not as JSON alone: that takes the server's.)
-- The moment and the epoch; and of each that whoever asked has to publish its place and its pseq. Nothing: create_many is
-- to be asked.
local epoch = redis.call('HGET', P .. 'meta', 'epoch')
if not epoch then return false end

local all, from = A(1), 1
local function take(length)
  from = from + length
  return string.sub(all, from - length, from - 1)
end

local function write(id, message, digest, route, token, ttl)
  local pseq = redis.call('HINCRBY', P .. 'route:' .. route, 'pseq', 1)
  if pseq == 1 then redis.call('SADD', P .. 'routes', route) end
  redis.call('HSET', job(id), 'token', token, 'v', RECORD, 'created', int(NOW), 'status', 'queued', 'attempt', 0, 'runs', 0,
             'state', '', 'message', message, 'digest', digest, 'route', route, 'result_ttl', ttl, 'publications', 1,
             'pseq', pseq)
  redis.call('ZADD', P .. 'queued:' .. route, pseq, id)
  redis.call('ZADD', P .. 'waiting', int(NOW), id)
  return pseq
end

local function read(lengths, pseq)
  local texts = {}
  for i, length in ipairs(lengths) do
    if type(length) == 'table' then
      local before, between, after = take(length[1]), take(length[2]), take(length[3])
      local first, second = int(pseq), epoch
      if length[4] then first, second = second, first end
      texts[i] = table.concat({before, first, between, second, after})
    else
      texts[i] = take(length)
    end
  end
  return texts
end

local own, wires = unpack(cjson.decode(A(2)))
local jobs, seen = {}, {}
for i, lengths in ipairs(own) do
  jobs[i] = read(lengths)
  local id = jobs[i][1]
  if seen[id] or redis.call('EXISTS', job(id)) == 1 then return false end  -- before anything is written: all or nothing
  seen[id] = true
end

local answer = {int(NOW), epoch}
for i, commands in ipairs(wires) do
  local pseq, there = write(unpack(jobs[i])), true
  for _, lengths in ipairs(commands) do
    local command = read(lengths, pseq)
    local said = there and redis.pcall(unpack(command))
    there = there and not (type(said) == 'table' and said.err)
  end
  if not there then  -- whoever asked publishes it, by what it may do
    redis.call('ZADD', P .. 'outbox:' .. jobs[i][4], int(NOW + OUTBOX), jobs[i][1])
    answer[#answer + 1] = i .. ' ' .. int(pseq)
  end
end
return table.concat(answer, ' ')  -- as one text: redis-py takes its time over a list
