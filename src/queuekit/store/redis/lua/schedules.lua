-- name ('' = all), or else the first of those to give and the last
-- It only reads.
local key, rows, out = P .. 'schedules', {}, {}
if A(1) ~= '' then
  rows = {A(1), redis.call('ZSCORE', key, A(1)) or nil}
else
  rows = redis.call('ZRANGE', key, A(2), A(3), 'WITHSCORES')
end
for i = 1, #rows, 2 do
  local r = redis.call('HMGET', P .. 'schedule:' .. rows[i], 'text', 'paused', 'fired', 'job')
  out[#out + 1] = {rows[i], r[1] or '', rows[i + 1] or 'inf', r[2] or '', r[3] or '', r[4] or ''}
end
return out
