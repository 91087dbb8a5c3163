-- worker, to open the lease how long it lasts at least (else ''), about, then the dead processes
-- (those that were found dead with a '?' before: none of their attempts is known to have met its limit)
local worker = A(1)
if A(2) == '' and not redis.call('ZSCORE', P .. 'workers', worker) then return {0, {}, {}, {}, {}, {}} end
epoch()
redis.call('ZADD', P .. 'workers', int(NOW + math.max(LEASE, tonumber(A(2)) or 0)), worker)
if A(2) ~= '' then redis.call('HSETNX', P .. 'consumers', worker, int(NOW) .. '|' .. A(3)) end
local dead = {}
for i = 4, #ARGV - 5 do
  local found, process = string.match(A(i), '^(%??)(.*)$')
  dead[process] = found == '' and NOW or 0
end
local processes, seen, lost, held, over = {}, {}, {}, {}, {}
local all = redis.call('HGETALL', P .. 'worker:' .. worker)
for i = 2, #all, 2 do held[all[i]] = (held[all[i]] or 0) + 1 end
for i = 1, #all, 2 do
  local process = all[i + 1]
  if dead[process] then
    local ended = settle(all[i], held[process] - 1, dead[process])
    if ended then lost[#lost + 1] = all[i] end
    if ended ~= nil then redis.call('HDEL', P .. 'worker:' .. worker, all[i]) end
  else
    if not seen[process] then
      seen[process] = true
      processes[#processes + 1] = process
    end
    if tonumber(redis.call('HGET', job(all[i]), 'limit_at') or NOW + 1) <= NOW then
      over[#over + 1] = {all[i], process}
    end
  end
end
local cancels, running = redis.call('SMEMBERS', P .. 'cancels:' .. worker), {}
for i, id in ipairs(cancels) do running[i] = redis.call('HGET', P .. 'worker:' .. worker, id) or '' end
return {1, processes, cancels, lost, running, over}
