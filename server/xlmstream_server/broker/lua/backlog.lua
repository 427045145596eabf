-- model... -> {jobs with chunks to begin, parts that wait}... of each
local found = {}
for i, model in ipairs(ARGV) do
  found[i] = {call('LLEN', root .. 'turn:' .. model), tonumber(call('HGET', adm, model .. '|c') or 0)}
end
return found
