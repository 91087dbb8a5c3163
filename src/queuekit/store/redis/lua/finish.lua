-- id, token, end, keep ('1' or ''), result
local answer, run = fenced(A(1), A(2), 'finish')
if answer then return answer end
end_attempt(A(1), A(2), 'finish', A(3), run)
local ttl = tonumber(redis.call('HGET', job(A(1)), 'result_ttl'))
-- the tombstone of a result stays a day longer than the result
terminal(A(1), 'succeeded', '', math.max(RETENTION, ttl + DAY))
if A(4) == '1' and ttl > 0 then redis.call('SET', P .. 'result:' .. A(1), A(5), 'PX', int(ttl)) end
return 1
