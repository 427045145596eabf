-- A gateway listens no more. id, gateway, cancelled event  -> OK
local r = execution(ARGV[1])
local v = call('HMGET', r, 'state', 'gws', 'detach', 'orphan', 'owner')
if not v[1] or terminal(v[1]) then return {'OK'} end
local stay = {}
for gw in string.gmatch(v[2], '[^,]+') do
  if gw ~= ARGV[2] then stay[#stay + 1] = gw end
end
local gws = table.concat(stay, ',')
call('HSET', r, 'gws', gws)
if v[1] == 'RUNNING' then attend(v[5], ARGV[1]) end
if not listened(ARGV[1], gws, v[3], v[4]) then stop(ARGV[1], 'CANCELLED', ARGV[3]) end
send('')
return {'OK'}
