-- flow, token, parent ('' = none), its fence, the id of a job on whose backend the caller publishes
local id = A(1)
if A(3) ~= '' and not_its_parent(A(3), A(4)) then return {'stale', epoch(), {}} end
local r = redis.call('HMGET', flow(id), 'open', 'started', 'dropped')
if not r[1] or r[3] then return {'missing', epoch(), {}} end
if r[2] then return {r[2] == A(2) and 'started' or 'was', epoch(), {}} end
redis.call('HSET', flow(id), 'started', A(2))
redis.call('ZREM', P .. 'forming', id)
FROM = A(5)
errand('start', id)
run_errands()
return {'started', epoch(), RANG}
