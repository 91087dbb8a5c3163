-- id, token, step, number ('' = found by its key)
local answer, head = step(A(1), A(2), A(3), A(4))
if answer then return answer end
redis.call('HSET', steps(A(1)), A(3), head .. 'begun')
return 1
