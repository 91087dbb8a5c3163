-- raw, reason and source, the lengths of these two in characters ("12,7"), the most entries, the most bytes
local key, meta = P .. 'quarantine', P .. 'meta'
local limit, most = tonumber(A(4)), tonumber(A(5))
local entry = int(NOW) .. '|' .. A(3) .. '|' .. A(2) .. A(1)
local count = redis.call('LPUSH', key, entry)
local bytes = #entry
if count > 1 then bytes = bytes + tonumber(redis.call('HGET', meta, 'quarantined') or 0) end
-- The oldest go first; the newest stays, whatever its size.
for _ = 1, math.min(count - 1, TRIM) do
  if count <= limit and bytes <= most then
    local at = string.match(redis.call('LINDEX', key, -1), '^%d+')
    if tonumber(at) > NOW - DEAD_TTL then break end
  end
  bytes = bytes - #redis.call('RPOP', key)
  count = count - 1
end
redis.call('HSET', meta, 'quarantined', int(bytes))
redis.call('PEXPIRE', key, int(DEAD_TTL))
return 1
