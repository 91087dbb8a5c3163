-- id, token, end, reason
if already(A(1), A(2), 'fail') then return 1 end
if not holds(A(1), A(2)) then return 0 end
end_attempt(A(1), A(2), 'fail', A(3))
terminal(A(1), 'failed', A(4))
return 1
