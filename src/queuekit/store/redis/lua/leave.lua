-- worker
return settle_all(A(1))
