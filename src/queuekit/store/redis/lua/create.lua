-- 1 id, 2 message, 3 digest, 4 route, 5 token, 6 result_ttl, 7 at ('' = now), 8 delay, 9 expires, 10 expires_in,
-- 11 key ('' = none), 12 what to do with a job that holds it and has not started ('existing': nothing; 'replace',
-- 'debounce'), 13 for how long it is held at least ('' = until the job ends), 14 its ties as JSON ('' = none)
local id, token, key = A(1), A(5), A(11)
local ties = A(14) ~= '' and cjson.decode(A(14)) or {}
local j = {id = id, message = A(2), digest = A(3), route = A(4), ttl = A(6), expires = A(9), expires_in = A(10),
           key = key, held = A(12), key_ttl = A(13), at = tonumber(A(7)) or (NOW + (tonumber(A(8)) or 0)),
           elsewhere = ties.elsewhere}

local function answer(mine, same, pseq, number, other, again)
  return {mine, same, epoch(), pseq, number, int(NOW), other or '', again and 1 or 0}
end

if ties.parent and not_its_parent(ties.parent, ties.fence) then return answer(-1, 0, 0, 0) end

local old = redis.call('HMGET', job(id), 'digest', 'token', 'pseq', 'publications', 'status', 'key', 'runs', 'finished',
                       'route', 'replaced', 'put_off')
if old[1] then
  local mine = old[2] == token and 1 or 0
  local pseq = old[5] == 'queued' and tonumber(old[3]) or 0
  if old[11] == token then return answer(0, 1, pseq, pseq > 0 and tonumber(old[4]) or 0, id) end
  local held = mine == 0 and key ~= '' and holder(key) == id
  if held and A(12) == 'debounce' and old[7] == '0' and not old[8] then
    off_route(id, old[9])
    redis.call('HSET', job(id), 'put_off', token, 'ready', int(NOW))
    redis.call('HDEL', job(id), 'expires', 'key_until')
    local sent, number = ask(j)
    return answer(0, 1, sent, number, id)
  end
  local same = (held or old[1] == A(3)) and 1 or 0
  return answer(mine, same, mine == 1 and pseq or 0, tonumber(old[4] or 0), mine == 1 and old[10] or nil)
end
local made, other, again = make(j, token)
if not made then return answer(0, 1, 0, 0, other, again) end
if ties.parent then redis.call('HSET', job(id), 'parent', ties.parent, 'root', adopt(ties.parent, id)) end
return answer(1, 1, made[1], made[2], other)
