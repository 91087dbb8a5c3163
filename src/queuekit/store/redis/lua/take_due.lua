-- route, n
local out = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'due:' .. A(1), '-inf', int(NOW), 'LIMIT', 0, A(2))) do
  local pseq, number = send(id, A(1))
  out[#out + 1] = taken(id, pseq, number)
end
return out
