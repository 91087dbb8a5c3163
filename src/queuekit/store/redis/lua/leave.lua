-- worker, whether its death was seen ('' = it was found dead: none of its attempts is known to have met its limit)
local ids = {}
for i, one in ipairs(settle_all(A(1), A(2) == '' and 0 or NOW)) do ids[i] = one[1] end
return ids
