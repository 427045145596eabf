-- jids... -> version of each, 0 where there is no such job
local found = {}
for i, jid in ipairs(ARGV) do
  local job = load_job(jid, 'version')
  found[i] = job and tonumber(job.version) or 0
end
return found
