-- A gateway lives. gateway, most frames  -> OK now
-- Where its stream or its name was lost, both begin anew with a later base, which tells the reader.
local gw, out = root .. 'gw:' .. ARGV[1], root .. 'out:' .. ARGV[1]
local value = call('GET', gw)
if not value or call('EXISTS', out) == 0 then
  call('DEL', out)
  call('XADD', out, now .. '-0', 'f', '')
  value = ARGV[2] .. ':' .. now
end
call('SET', gw, value, 'PX', 15000)
call('PEXPIRE', out, 60000)
return {'OK', now}
