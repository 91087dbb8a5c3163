-- id, token, end, delay, state
local answer, run = fenced(A(1), A(2), 'retry')
if answer then return answer end
local reason = end_or_cancel(A(1), A(2), 'retry', A(3), run)
if reason then return reason end
redis.call('HSET', job(A(1)), 'state', A(5))
redis.call('HDEL', job(A(1)), 'suspect')
park(A(1), redis.call('HGET', job(A(1)), 'route'), NOW + tonumber(A(4)), 'retrying')
return 1
