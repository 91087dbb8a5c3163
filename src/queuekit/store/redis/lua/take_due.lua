-- route, n
local ids = redis.call('ZRANGEBYSCORE', P .. 'due:' .. A(1), '-inf', int(NOW), 'LIMIT', 0, A(2))
for _, id in ipairs(ids) do redis.call('ZREM', P .. 'due:' .. A(1), id) end
return take_all(ids, A(1))
