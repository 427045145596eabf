-- jids... -> now, {false | {fields of the job: name, value...} {errors: name, value...}}...
local found = {now}
for i, jid in ipairs(ARGV) do
  found[i + 1] = load_job(jid) and {call('HGETALL', job_key(jid)), call('HGETALL', job_key(jid, ':errors'))} or {}
end
return found
