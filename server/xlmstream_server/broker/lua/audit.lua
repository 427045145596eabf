-- ids...  -> {state or '', n_ev, journaled}...
local found = {}
for i, id in ipairs(ARGV) do
  local v = call('HMGET', execution(id), 'state', 'n_ev', 'journaled')
  found[i] = {v[1] or '', tonumber(v[2] or 0), tonumber(v[3] or 0)}
end
return found
