-- route, then id and pseq by turns
for i = 2, #ARGV - 5, 2 do
  -- a publication that was made again in the meantime keeps its own entry
  if redis.call('HGET', job(A(i)), 'pseq') == A(i + 1) then redis.call('ZREM', P .. 'outbox:' .. A(1), A(i)) end
end
return 1
