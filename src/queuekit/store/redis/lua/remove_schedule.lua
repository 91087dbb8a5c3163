-- name
redis.call('ZREM', P .. 'schedules', A(1))
return redis.call('DEL', P .. 'schedule:' .. A(1))
