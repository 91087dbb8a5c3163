-- raw, reason, cap
redis.call('LPUSH', P .. 'quarantine', int(NOW) .. '|' .. #A(2) .. '|' .. A(2) .. A(1))
redis.call('LTRIM', P .. 'quarantine', 0, tonumber(A(3)) - 1)
return 1
