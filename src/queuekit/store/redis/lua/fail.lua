-- id, token, end, reason
local answer, run = fenced(A(1), A(2), 'fail')
if answer then return answer end
end_attempt(A(1), A(2), 'fail', A(3), run)
FROM = A(1)
terminal(A(1), 'failed', A(4))
return #RANG > 0 and RANG or 1
