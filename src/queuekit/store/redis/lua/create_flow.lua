-- 1 flow, 2 parent ('' = none), 3 its fence, 4 the workflow's compensations ('a,b'), 5 how many jobs it has without these,
-- 6 the jobs, as JSON, then the message of each
-- A part of a workflow: those that wait before those that are waited for. Nothing starts before start_flow.
local id, parent = A(1), A(2)
if parent ~= '' and not_its_parent(parent, A(3)) then return 'stale' end
local phase = redis.call('HMGET', flow(id), 'open', 'started', 'dropped')
if phase[3] then return 'dropped' end
if phase[2] then return {} end
if not phase[1] then
  local root = id
  if parent ~= '' then root = adopt(parent, '~' .. id) end
  redis.call('HSET', flow(id), 'open', A(5), 'root', root, 'parent', parent)
  if A(4) ~= '' then redis.call('HSET', flow(id), 'undo', A(4)) end
end
redis.call('ZADD', P .. 'forming', int(NOW + FORMING), id)
local root, clash = redis.call('HGET', flow(id), 'root'), {}
for i, one in ipairs(cjson.decode(A(6))) do
  local digest = redis.call('HMGET', job(one.id), 'digest', 'flow')
  if digest[1] then
    if digest[1] ~= one.digest or digest[2] ~= id then clash[#clash + 1] = one.id end
  else
    local fields = {'message', A(6 + i), 'digest', one.digest, 'route', one.route, 'token', '', 'result_ttl', one.result_ttl,
                    'v', JOINED, 'created', int(NOW), 'status', 'waiting', 'attempt', 0, 'runs', 0, 'state', '',
                    'flow', id, 'root', root, 'needs', one.needs, 'rule', one.rule}
    local function add(name, value)
      if value and value ~= '' then
        fields[#fields + 1] = name
        fields[#fields + 1] = value
      end
    end
    add('parent', parent)
    add('after', one.after)
    add('next', one.next)
    add('uses', one.uses)
    add('undoes', one.undoes)
    add('at', one.at)
    add('delay', one.delay)
    local expires = tonumber(one.expires) or (tonumber(one.expires_in) and NOW + tonumber(one.expires_in))
    add('expires', expires and int(expires))
    redis.call('HSET', job(one.id), unpack(fields))
    for other in string.gmatch(one.after, '[^,]+') do redis.call('SADD', waits(one.id), other) end
    redis.call('SADD', waits(one.id), one.undoes ~= '' and '!' or '^')
    redis.call('ZADD', P .. 'waiting', int(NOW), one.id)
    redis.call('SADD', P .. 'routes', one.route)
    redis.call('RPUSH', members('~' .. id), one.id)
  end
end
return clash
