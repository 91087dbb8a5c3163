-- key
return holder(A(1)) or false
