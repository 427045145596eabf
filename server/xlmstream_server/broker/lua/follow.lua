-- Listens to an execution: what there is now is returned, the rest comes in frames. id, gateway
-- -> NOTFOUND | OK state n_ev journaled envelope journal
local r = execution(ARGV[1])
local v = call('HMGET', r, 'state', 'n_ev', 'journaled', 'gws', 'owner')
if not v[1] then return {'NOTFOUND'} end
if not terminal(v[1]) then
  local gws, there = v[4], false
  for gw in string.gmatch(gws, '[^,]+') do there = there or gw == ARGV[2] end
  if not there then gws = gws == '' and ARGV[2] or gws .. ',' .. ARGV[2] end
  call('HSET', r, 'gws', gws)
  call('HDEL', r, 'orphan')
end
local n_ev = tonumber(v[2] or 0)
if v[1] == 'RUNNING' then
  attend(v[5], ARGV[1])
  n_ev = progress(v[5], ARGV[1]) or n_ev
end
return {'OK', v[1], n_ev, tonumber(v[3]), call('GET', root .. 'e:' .. ARGV[1]),
  call('GET', root .. 'j:' .. ARGV[1]) or ''}
