-- id, token ('' = whoever asks)
if A(2) ~= '' then
  local r = redis.call('HMGET', job(A(1)), 'status', 'fence')
  if r[1] ~= 'running' or r[2] ~= A(2) then return false end
end
return redis.call('HGETALL', steps(A(1)))
