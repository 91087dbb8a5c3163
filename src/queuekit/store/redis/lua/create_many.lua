-- the jobs, as JSON: of each what create takes, and what publishes it, if anything: the texts in whose places its pseq and
-- the epoch go, the command and the argument of it where they stand, and the commands
local taken
A = function(i) return taken[i] end

local function put(text, mark, value)
  local from, to = string.find(text, mark, 1, true)
  return string.sub(text, 1, from - 1) .. value .. string.sub(text, to + 1)
end

-- Whether the broker, which is this server, has it now.
local function publish(wire, pseq)
  local commands = wire[6]
  local args = commands[wire[4]]
  args[wire[5]] = put(put(args[wire[5]], wire[2], int(pseq)), wire[3], epoch())
  for _, command in ipairs(commands) do
    local answer = redis.pcall(unpack(command))
    if type(answer) == 'table' and answer.err then return false end  -- whoever asked publishes it, by what it may do
  end
  return true
end

local all, asked, answers = cjson.decode(ARGV[6]), {}, {}
for _, one in ipairs(all) do
  local id, digest = one[1][1], one[1][3]
  asked[id] = asked[id] or redis.call('HGET', job(id), 'digest') or digest
  if asked[id] ~= digest and one[1][11] == '' then return id end  -- with a key it may be put off, and ask for this
end
for i, one in ipairs(all) do
  taken = one[1]
  local answer = create()
  local id, route, pseq = taken[1], taken[4], answer[4]
  if pseq > 0 and one[2] then
    -- of one that is asked for again it may be on its way already
    if not redis.call('ZSCORE', P .. 'outbox:' .. route, id) then
      answer[4] = 0
    elseif publish(one, pseq) then
      redis.call('ZREM', P .. 'outbox:' .. route, id)
      answer[4] = 0
    end
  end
  answers[i] = answer
end
return answers
