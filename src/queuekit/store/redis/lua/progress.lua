-- id, token, said
local r = redis.call('HMGET', job(A(1)), 'status', 'fence', 'attempt')
if r[1] ~= 'running' or r[2] ~= A(2) then return 0 end
redis.call('HSET', job(A(1)), 'progress', int(NOW) .. '|' .. r[3] .. '|' .. A(3))
return 1
