-- worker, to open the lease how long it lasts at least (else ''), about, then the dead processes
local worker = A(1)
if A(2) == '' and not redis.call('ZSCORE', P .. 'workers', worker) then return {0, {}, {}, {}} end
epoch()
redis.call('ZADD', P .. 'workers', int(NOW + math.max(LEASE, tonumber(A(2)) or 0)), worker)
if A(2) ~= '' then redis.call('HSETNX', P .. 'consumers', worker, int(NOW) .. '|' .. A(3)) end
local dead = {}
for i = 4, #ARGV - 5 do dead[A(i)] = true end
local processes, seen, lost, held = {}, {}, {}, {}
local all = redis.call('HGETALL', P .. 'worker:' .. worker)
for i = 2, #all, 2 do held[all[i]] = (held[all[i]] or 0) + 1 end
for i = 1, #all, 2 do
  local process = all[i + 1]
  if dead[process] then
    local ended = settle(all[i], 'lost', held[process] - 1)
    if ended then lost[#lost + 1] = all[i] end
    if ended ~= nil then redis.call('HDEL', P .. 'worker:' .. worker, all[i]) end
  elseif not seen[process] then
    seen[process] = true
    processes[#processes + 1] = process
  end
end
return {1, processes, redis.call('SMEMBERS', P .. 'cancels:' .. worker), lost}
