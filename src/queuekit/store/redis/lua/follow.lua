-- n
-- Whether there is more, and the jobs that errands have cancelled and of which nobody was told.
LEFT = tonumber(A(1))
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'forming', '-inf', int(NOW), 'LIMIT', 0, 10)) do
  redis.call('ZREM', P .. 'forming', id)
  redis.call('HSET', flow(id), 'dropped', 1)
  errand('forget', id)
end
run_errands()
while LEFT > 0 do
  local one = redis.call('LPOP', P .. 'errands')
  if not one then break end
  local kind, id, at, extra = string.match(one, '^(%a+)|([^|]*)|(%d+)|(.*)$')
  TODO[#TODO + 1] = {kind, id, tonumber(at), extra}
  run_errands()
end
local ids = redis.call('LPOP', P .. 'untold', A(1)) or {}
return {redis.call('EXISTS', P .. 'errands', P .. 'untold') > 0 and 1 or 0, ids}
