-- ids...  -> {state or '', n_ev, journaled}...
local found = {}
for i, id in ipairs(ARGV) do
  local v = call('HMGET', execution(id), 'state', 'n_ev', 'journaled', 'owner')
  local n_ev = v[1] == 'RUNNING' and progress(v[4], id) or tonumber(v[2] or 0)
  found[i] = {v[1] or '', n_ev, tonumber(v[3] or 0)}
end
return found
