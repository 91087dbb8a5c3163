-- id, token, end, delay
local answer, run = fenced(A(1), A(2), 'release')
if answer then return answer end
local reason = end_or_cancel(A(1), A(2), 'release', A(3), run)
redis.call('HINCRBY', job(A(1)), 'attempt', -1)
if reason then return reason end
park(A(1), redis.call('HGET', job(A(1)), 'route'), NOW + tonumber(A(4)), 'queued')
return 1
