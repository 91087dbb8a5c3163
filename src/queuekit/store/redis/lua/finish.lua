-- id, token, end, keep ('1' or ''), result, its signature ('' = none)
local answer, run = fenced(A(1), A(2), 'finish')
if answer then return answer end
end_attempt(A(1), A(2), 'finish', A(3), run)
FROM = A(1)
local r = redis.call('HMGET', job(A(1)), 'result_ttl', 'needs', 'kept')
local ttl, needs, kept = tonumber(r[1]), tonumber(r[2] or 0), tonumber(r[3] or 0)
if A(4) == '1' and needs > 0 then
  redis.call('SET', P .. 'result:' .. A(1), A(5))
elseif A(4) == '1' and math.max(ttl, kept) > 0 then
  redis.call('SET', P .. 'result:' .. A(1), A(5), 'PX', int(math.max(ttl, kept)))
end
if r[2] and A(6) ~= '' then redis.call('HSET', job(A(1)), 'proof', A(6)) end
-- the tombstone of a result stays a day longer than the result
terminal(A(1), 'succeeded', '', math.max(RETENTION, ttl + DAY))
return #RANG > 0 and RANG or 1
