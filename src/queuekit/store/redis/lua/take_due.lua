-- route, n
return take_all(redis.call('ZRANGEBYSCORE', P .. 'due:' .. A(1), '-inf', int(NOW), 'LIMIT', 0, A(2)), A(1))
