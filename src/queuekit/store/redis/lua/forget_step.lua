-- id, token, step
local answer = step(A(1), A(2), A(3))
if answer then return answer end
redis.call('HDEL', steps(A(1)), A(3))
return 1
