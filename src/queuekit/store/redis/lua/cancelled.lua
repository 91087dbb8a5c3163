-- id, token, end, reason
if already(A(1), A(2), 'cancelled') then return 1 end
if not holds(A(1), A(2)) then return 0 end
end_attempt(A(1), A(2), 'cancelled', A(3))
terminal(A(1), 'cancelled', A(4))
return 1
