-- id, reason
local said = cancel_one(A(1), A(2))
run_errands()
return said
