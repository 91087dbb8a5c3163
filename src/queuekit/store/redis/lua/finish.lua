-- id, token, end, keep ('1' or ''), result
if already(A(1), A(2), 'finish') then return 1 end
if not holds(A(1), A(2)) then return 0 end
end_attempt(A(1), A(2), 'finish', A(3))
terminal(A(1), 'succeeded', '')
local ttl = tonumber(redis.call('HGET', job(A(1)), 'result_ttl'))
if A(4) == '1' and ttl > 0 then redis.call('SET', P .. 'result:' .. A(1), A(5), 'PX', int(ttl)) end
return 1
