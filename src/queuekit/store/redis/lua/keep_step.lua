-- id, token, step, number ('' = found by its key), result, limit
local answer, head, size = step(A(1), A(2), A(3), A(4))
if answer then return answer end
size = size + #A(5)
if size > tonumber(A(6)) then return size end
local kept = head .. '=' .. A(5)
redis.call('HSET', steps(A(1)), A(3), kept)
redis.call('HSET', job(A(1)), 'step_bytes', size)
return kept
