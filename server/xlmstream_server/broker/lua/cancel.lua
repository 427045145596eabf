-- id, cancelled event  -> NOTFOUND | OK state found
local state = stop(ARGV[1], 'CANCELLED', ARGV[2])
if not state then return {'NOTFOUND'} end
send('')
return {'OK', state}
