-- Gives a worker's own rows back to the queue, in front. life, cancelled event, deadline event, ids...
-- -> FENCED | OK now moved
local life, moved = ARGV[1], 0
if not call('ZSCORE', ws, life) then return {'FENCED'} end
for i = 4, #ARGV do
  if progress(life, ARGV[i]) and call('EXISTS', execution(ARGV[i])) == 1 then
    if requeue(ARGV[i], life, false, ARGV[2], ARGV[3], '') then moved = moved + 1 end
  end
end
account()
send('')
return {'OK', now, moved}
