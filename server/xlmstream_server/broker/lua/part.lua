-- Parts of jobs: how they begin, wait, and end. Used behind job.lua.

-- Lets a part wait in its lane, or be held where its job is paused.
local function queue_part(id, lane, model, tenant, paused)
  if paused then
    call('HSET', execution(id), 'state', 'HELD', 'at', lane, 'entry', '')
  else
    local entry = enqueue(id, lane, model, tenant, 0, 0)
    call('HSET', execution(id), 'state', 'QUEUED', 'at', lane, 'entry', entry)
  end
end

local function make_part(jid, job, part, chunk, attempt, items, offsets, before, lane)
  local id = jid .. '.' .. part
  call('HSET', execution(id), 'job', jid, 'chunk', chunk, 'attempt', attempt, 'part', part, 'items', items, 'offsets', offsets,
    'before', before, 'detach', 'j', 'gws', '', 'model', job.model, 'tenant', job.tenant)
  call('PEXPIREAT', execution(id), job.expires + 2 * DAY_MS) -- so that it can be told from what it belonged to
  call('SADD', job_key(jid, ':live'), part)
  queue_part(id, lane, job.model, job.tenant, job.paused)
end

-- Makes a part of the job's next chunk.
local function begin_chunk(jid)
  local job = load_job(jid, 'model', 'tenant', 'items', 'next', 'chunks', 'attempt', 'paused')
  local chunk, items, offsets, before = tonumber(job.next), nil, '', ''
  if chunk < tonumber(job.chunks) then
    call('HSET', job_key(jid), 'next', chunk + 1)
    items = chunk_items(jid, chunk, job.items)
  else
    local todo = job_key(jid, ':todo')
    chunk = call('HRANDFIELD', todo)
    local list = {}
    before = call('HGET', todo, chunk)
    for some in string.gmatch(before, ':([%d,]+)') do list[#list + 1] = some end
    offsets = table.concat(list, ',')
    items = select(2, string.gsub(offsets, ',', '')) + 1
    call('HDEL', todo, chunk)
  end
  make_part(jid, job, job.attempt .. '.' .. chunk, chunk, job.attempt, items, offsets, before, 'c')
  touch(jid, job.expires)
end

-- Makes a part of the job whose turn it is; false where no job of the model has a chunk to begin.
local function begin_next(model)
  local turns = root .. 'turn:' .. model
  while true do
    local jid = call('LPOP', turns)
    if not jid then return false end
    local job = load_job(jid, 'next', 'chunks')
    local begins = job and has_backlog(jid, job)
    if begins then begin_chunk(jid) end
    job = load_job(jid, 'next', 'chunks')
    if job and has_backlog(jid, job) then
      call('RPUSH', turns, jid)
    elseif job then
      call('HDEL', job_key(jid), 'turn')
    end
    if begins then return true end
  end
end

local stop_job

-- The end of a part, wherever it stands: its results are kept, its items counted.
-- bytes: its JobResults; failures: of them, as in `failed`; done: their offsets. What a retry did not come to has failed as
-- before; nil for `done`: other parts will come to it.
local function close_part(id, bytes, succeeded, failures, prompt, completion, done)
  local v = call('HMGET', execution(id), 'job', 'chunk', 'part', 'items', 'state', 'model', 'at', 'entry', 'owner', 'before')
  local jid, chunk, part = v[1], v[2], v[3]
  if not jid then return end
  if v[5] == 'RUNNING' then
    call('HDEL', root .. 'own:' .. v[9], id)
    call('SREM', root .. 'att:' .. v[9], id)
  end
  if v[8] ~= '' then
    call('XACK', lane_of(v[6], v[7]), 'w', v[8])
    call('XDEL', lane_of(v[6], v[7]), v[8])
  end
  call('DEL', execution(id), root .. 'j:' .. id)
  local job = load_job(jid, 'tenant', 'max_failed', 'failed', 'ending', 'rate_items', 'rate_tokens', 'rate_at')
  if not job then return end
  call('SREM', job_key(jid, ':live'), part)
  local key = job_key(jid)
  if v[5] == 'RUNNING' then call('HINCRBY', key, 'running', -v[4]) end
  if done then add_failures(jid, chunk, failures_in(v[10], offsets_in(done), false)) end
  if bytes ~= '' then
    call('HSET', job_key(jid, ':out'), part, bytes)
    call('RPUSH', job_key(jid, ':done'), part)
    if part ~= '1.' .. chunk then
      local plain = call('HEXISTS', job_key(jid, ':out'), '1.' .. chunk) == 1 and '1.' .. chunk .. ',' or ''
      local before = call('HGET', job_key(jid, ':parts'), chunk)
      call('HSET', job_key(jid, ':parts'), chunk, (before and before .. ',' or plain) .. part)
    end
    use(jid, job.tenant, #bytes)
    local failed = add_failures(jid, chunk, failures)
    call('HINCRBY', key, 'succeeded', succeeded)
    call('HINCRBY', key, 'prompt', prompt)
    call('HINCRBY', key, 'completion', completion)
    local fade = math.exp((job.rate_at - now) / RATE_MS)
    call('HSET', key, 'rate_items', string.format('%.3f', job.rate_items * fade + succeeded + failed), 'rate_tokens',
      string.format('%.3f', job.rate_tokens * fade + prompt + completion), 'rate_at', now)
    touch(jid, job.expires)
    if job.max_failed and not job.ending and job.failed + failed > tonumber(job.max_failed) then stop_job(jid, 'FAILED') end
  end
  changed(jid)
  settle_job(jid)
end

-- The same with what is saved of it. `goes_on`: other parts have the rest.
local function close_as_saved(id, goes_on)
  local tally = call('HGET', execution(id), 'tally')
  if not tally then return close_part(id, '', 0, '', 0, 0, not goes_on and '' or nil) end
  local succeeded, failures, prompt, completion, done = string.match(tally, '^(.-)\n(.-)\n(.-)\n(.-)\n(.*)$')
  local saved = call('GET', root .. 'j:' .. id)
  close_part(id, saved, tonumber(succeeded), failures, tonumber(prompt), tonumber(completion), not goes_on and done or nil)
end

-- Takes a waiting part out of its lane.
local function withdraw_part(id, model, lane, entry, tenant)
  call('XDEL', lane_of(model, lane), entry)
  charge(-1, model, lane, tenant, 0, 0)
end

-- Has nothing more of a job begin, and ends what waits or runs. `why` is CANCELLED, EXPIRED or FAILED.
function stop_job(jid, why)
  local job = load_job(jid, 'model', 'turn', 'chunks')
  if job.turn then leave_turns(jid, job.model) end
  call('HSET', job_key(jid), 'ending', why, 'next', job.chunks)
  local todo = call('HGETALL', job_key(jid, ':todo')) -- not run again: their failures stand
  count_failures(jid, todo)
  for i = 1, #todo, 1000 do call('HSET', job_key(jid, ':failed'), unpack(todo, i, math.min(i + 999, #todo))) end
  call('DEL', job_key(jid, ':todo'))
  for _, part in ipairs(call('SMEMBERS', job_key(jid, ':live'))) do
    local id = jid .. '.' .. part
    local v = call('HMGET', execution(id), 'state', 'model', 'at', 'entry', 'tenant', 'owner')
    local lease = v[1] == 'RUNNING' and call('ZSCORE', ws, v[6])
    if v[1] == 'QUEUED' then withdraw_part(id, v[2], v[3], v[4], v[5]) end
    if lease and tonumber(lease) > now then
      call('HSET', execution(id), 'cancel', why)
      attend(v[6], id)
      call('XADD', root .. 'bell', 'MAXLEN', 1, '*', 'm', v[2]) -- have its worker look at once
    else
      close_as_saved(id)
    end
  end
  touch(jid, job.expires)
  changed(jid)
  settle_job(jid)
end
