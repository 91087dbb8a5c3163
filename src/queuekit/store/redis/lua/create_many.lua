-- the jobs, as JSON: of each what create takes, and what publishes it, if anything: the command and the argument of it in
-- which its pseq and the epoch stand, what stands before them, between them and behind, and the commands
local taken
A = function(i) return taken[i] end

-- Whether the broker, which is this server, has it now.
local function publish(wire, pseq)
  local commands = wire[7]
  commands[wire[2]][wire[3]] = wire[4] .. int(pseq) .. wire[5] .. epoch() .. wire[6]
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
