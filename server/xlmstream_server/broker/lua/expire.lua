-- id, deadline event  -> NOTFOUND | OK state found
-- A gateway's clock is its own: it may be early by a little.
local v = call('HMGET', execution(ARGV[1]), 'state', 'deadline')
if not v[1] then return {'NOTFOUND'} end
if tonumber(v[2]) <= now + 100 then stop(ARGV[1], 'EXPIRED', ARGV[2]) end
send('')
return {'OK', v[1]}
