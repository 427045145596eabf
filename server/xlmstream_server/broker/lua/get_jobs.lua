-- jids... -> now, {false | {fields of the job: name, value...} {errors: name, value...}}...
-- Counts include what is saved of parts that have not ended.
local function table_of(flat)
  local found = {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

local function flat_of(found)
  local flat = {}
  for name, value in pairs(found) do
    flat[#flat + 1], flat[#flat + 2] = name, type(value) == 'number' and string.format('%d', value) or value
  end
  return flat
end

local function add_saved(jid, job, errors)
  local function add(to, name, n) to[name] = (to[name] or 0) + n end
  for _, part in ipairs(call('SMEMBERS', job_key(jid, ':live'))) do
    local v = call('HMGET', execution(jid .. '.' .. part), 'tally', 'state', 'chunk')
    if v[1] then
      local succeeded, failures, prompt, completion, done = string.match(v[1], '^(.-)\n(.-)\n(.-)\n(.-)\n(.*)$')
      add(job, 'succeeded', succeeded)
      add(job, 'prompt', prompt)
      add(job, 'completion', completion)
      if v[2] == 'RUNNING' then add(job, 'running', -select(2, string.gsub(done, '%d+', ''))) end
      for reason, offsets in string.gmatch(failures, '([^:;]+):([%d,]+)') do
        local n = select(2, string.gsub(offsets, '%d+', ''))
        add(job, 'failed', n)
        add(errors, reason, n)
        local first = call('LINDEX', job_key(jid, ':at'), v[3])
        errors[reason .. '|i'] = errors[reason .. '|i'] or first + string.match(offsets, '%d+')
      end
    end
  end
end

local found = {now}
for i, jid in ipairs(ARGV) do
  found[i + 1] = {}
  if load_job(jid) then
    local job, errors = table_of(call('HGETALL', job_key(jid))), table_of(call('HGETALL', job_key(jid, ':errors')))
    add_saved(jid, job, errors)
    found[i + 1] = {flat_of(job), flat_of(errors)}
  end
end
return found
