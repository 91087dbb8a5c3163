-- n
local out = {}
local rows = redis.call('ZRANGEBYSCORE', P .. 'schedules', '-inf', int(NOW), 'WITHSCORES', 'LIMIT', 0, A(1))
for i = 1, #rows, 2 do
  local text = redis.call('HGET', P .. 'schedule:' .. rows[i], 'text')
  if text then
    out[#out + 1] = {rows[i], text, rows[i + 1]}
  else
    redis.call('ZREM', P .. 'schedules', rows[i])  -- its record is gone
  end
end
return {int(NOW), out}
