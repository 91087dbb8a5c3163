-- flow, reason
if redis.call('EXISTS', flow(A(1))) == 0 then return 'missing' end
if tonumber(redis.call('HGET', flow(A(1)), 'open')) <= 0 then return 'ended' end
errand('cancel', '~' .. A(1), A(2))
run_errands()
return 'cancelled'
