-- raw, reason, the reason's length in characters, cap
redis.call('LPUSH', P .. 'quarantine', int(NOW) .. '|' .. A(3) .. '|' .. A(2) .. A(1))
redis.call('LTRIM', P .. 'quarantine', 0, tonumber(A(4)) - 1)
return 1
