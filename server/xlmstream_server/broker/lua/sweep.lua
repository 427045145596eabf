-- Ends and forgets jobs whose time is over, at most 32 a call. -> OK number
local due = call('ZRANGEBYSCORE', root .. 'ends', '-inf', now, 'LIMIT', 0, 32)
for _, member in ipairs(due) do
  local jid, tenant = string.sub(member, 1, 28), string.sub(member, 29)
  local v = call('HMGET', job_key(jid), 'state', 'ending', 'retention')
  if v[1] ~= '' then
    forget(jid, tenant)
  elseif not v[2] then
    stop_job(jid, 'EXPIRED')
    -- Until its parts have ended; then until its retention is over.
    if call('HGET', job_key(jid), 'state') == '' then set_end(jid, tenant, now + v[3]) end
  else
    set_end(jid, tenant, now + v[3])
  end
end
account()
return {'OK', #due}
