-- Used by every script that touches jobs.
--
--   key below the root    type    holds                                             ends
--   job:<jid>             hash    a job, fields below                               a day after `expires`, and swept at it
--   job:<jid>:in          hash    chunk -> its JobItems: field 1 of a message, each; <chunk>+ -> the rest of them
--   job:<jid>:at          list    of each chunk the index of its first item
--   job:<jid>:out         hash    part -> its JobResults: field 1 of a message, each; by index; written once
--   job:<jid>:parts       hash    chunk -> its parts, comma-separated, where it is not the one "1.<chunk>"
--   job:<jid>:done        list    parts in the order they ended
--   job:<jid>:failed      hash    chunk -> failed items of the present attempt: REASON:offset,offset;REASON:offset...
--   job:<jid>:todo        hash    the same of the attempt before, which the present one has to run
--   job:<jid>:errors      hash    REASON -> number of items; REASON|i -> index of one of them
--   job:<jid>:live        set     parts that wait or run                            all as job:<jid>
--   jobs:<tenant>         zset    jid -> broker time of its creation                with the last of them
--   turn:<m>              list    jobs that have chunks of model m to begin, the next one first
--                                                                                   entries: when it has none
--   ends                  zset    <jid><tenant> -> when the job expires or is forgotten
--                                                                                   members: with the job
--   use                   hash    <jid> -> bytes it keeps; t<tenant> -> bytes its jobs keep
--                                                                                   fields: with the job; at zero
--
--   A part is "<attempt>.<chunk>", and "<part>.<n>" where a part was split. Waiting or running it is an execution with the id
--   "<jid>.<part>" in lane c, or p where it has to run alone: r:<id> as of a request, own and att too, and
--      job chunk attempt part
--      items     how many it is to run
--      offsets   which of its chunk, comma-separated; '' all
--      before    of a retry: how they failed before, as in `failed`
--      detach    'j'
--      tally     of the results that are saved in j:<id>: succeeded failures prompt completion done (below), a line each
--      state     also HELD: waits for the job to be resumed
--
--   job: spec digest model tenant created ttl retention max_attempts max_failed   set by create_job
--      items bytes chunks  committed; last_items, last_bytes, last_tokens of the last chunk
--      sealed paused       1 or absent
--      ending              CANCELLED, EXPIRED or FAILED: nothing more begins
--      state               its terminal state, else ''
--      next                the next chunk to begin
--      attempt             1, one more for each retry; `retry` is that call's key
--      running succeeded failed skipped   items
--      prompt completion   tokens
--      started ended expires   broker time
--      turn                1: it is in turn:<m>
--      rate_items rate_tokens rate_at     sums that fade with RATE_MS
--      version             counts its changes

local DAY_MS = 86400000
local RATE_MS = 30000
local JOB_KEYS = {'', ':in', ':at', ':out', ':parts', ':done', ':failed', ':todo', ':errors', ':live'}

local function job_key(jid, key) return root .. 'job:' .. jid .. (key or '') end

-- The wanted fields of a job, or nil where there is none.
local function load_job(jid, ...)
  local v = call('HMGET', job_key(jid), 'state', 'expires', ...)
  if not v[1] or v[1] ~= '' and tonumber(v[2]) <= now then return nil end
  local job = {state = v[1], expires = tonumber(v[2])}
  for i, field in ipairs({...}) do job[field] = v[i + 2] end
  return job
end

-- Everything of a job outlives its time by a day: what no sweep removes ends by itself.
local function touch(jid, expires)
  for _, key in ipairs(JOB_KEYS) do call('PEXPIREAT', job_key(jid, key), expires + DAY_MS) end
end

local function set_end(jid, tenant, expires)
  call('HSET', job_key(jid), 'expires', expires)
  call('ZADD', root .. 'ends', expires, jid .. tenant)
  local index = root .. 'jobs:' .. tenant
  if call('PEXPIRETIME', index) < expires + DAY_MS then call('PEXPIREAT', index, expires + DAY_MS) end
  touch(jid, expires)
end

local function changed(jid) call('HINCRBY', job_key(jid), 'version', 1) end

-- Charges a job's tenant for `bytes` more, or fewer.
local function use(jid, tenant, bytes)
  call('HINCRBY', root .. 'use', jid, bytes)
  if call('HINCRBY', root .. 'use', 't' .. tenant, bytes) <= 0 then call('HDEL', root .. 'use', 't' .. tenant) end
end

local function forget(jid, tenant)
  local kept = call('HGET', root .. 'use', jid)
  if kept then use(jid, tenant, -kept) end
  call('HDEL', root .. 'use', jid)
  call('ZREM', root .. 'ends', jid .. tenant)
  call('ZREM', root .. 'jobs:' .. tenant, jid)
  for _, key in ipairs(JOB_KEYS) do call('UNLINK', job_key(jid, key)) end
end

local function chunk_items(jid, chunk, items)
  local first = tonumber(call('LINDEX', job_key(jid, ':at'), chunk))
  return tonumber(call('LINDEX', job_key(jid, ':at'), chunk + 1) or items) - first, first
end

-- Where to cut `n` bytes so that the first part fills what the allocator gives for it: jemalloc has four sizes to each power
-- of two, and would waste up to a quarter. A string has 10 bytes besides its own at most.
local function full_size(n)
  local power = 2 ^ math.floor(math.log(n + 10) / math.log(2))
  return power + math.floor((n + 10 - power) / (power / 4)) * (power / 4) - 10
end

local function set_input(jid, chunk, bytes)
  local cut = #bytes < 2048 and #bytes or full_size(#bytes)
  call('HSET', job_key(jid, ':in'), chunk, string.sub(bytes, 1, cut))
  if cut < #bytes then
    call('HSET', job_key(jid, ':in'), chunk .. '+', string.sub(bytes, cut + 1))
  else
    call('HDEL', job_key(jid, ':in'), chunk .. '+')
  end
end

local function get_input(jid, chunk)
  local v = call('HMGET', job_key(jid, ':in'), chunk, chunk .. '+')
  return v[2] and v[1] .. v[2] or v[1]
end

local function has_backlog(jid, job)
  return tonumber(job.next) < tonumber(job.chunks) or call('EXISTS', job_key(jid, ':todo')) == 1
end

-- Lets a job take its turns if it has chunks to begin.
local function join_turns(jid)
  local job = load_job(jid, 'model', 'next', 'chunks', 'paused', 'ending', 'turn')
  if job.state == '' and not job.paused and not job.ending and not job.turn and has_backlog(jid, job) then
    call('RPUSH', root .. 'turn:' .. job.model, jid)
    call('HSET', job_key(jid), 'turn', 1)
    call('XADD', root .. 'bell', 'MAXLEN', 1, '*', 'm', job.model)
  end
end

local function leave_turns(jid, model)
  call('LREM', root .. 'turn:' .. model, 1, jid)
  call('HDEL', job_key(jid), 'turn')
end

-- Counts failures, each a chunk and REASON:offset,offset;..., one behind the other in a list; returns how many items they
-- are. Few calls, however many chunks.
local function count_failures(jid, list)
  local counts, samples, total = {}, {}, 0
  for i = 1, #list, 2 do
    for reason, offsets in string.gmatch(list[i + 1], '([^:;]+):([%d,]+)') do
      local n = select(2, string.gsub(offsets, ',', '')) + 1
      counts[reason], total = (counts[reason] or 0) + n, total + n
      samples[reason] = samples[reason] or {list[i], string.match(offsets, '%d+')}
    end
  end
  for reason, n in pairs(counts) do
    local first = call('LINDEX', job_key(jid, ':at'), samples[reason][1])
    call('HINCRBY', job_key(jid, ':errors'), reason, n)
    call('HSETNX', job_key(jid, ':errors'), reason .. '|i', first + samples[reason][2])
  end
  if total > 0 then call('HINCRBY', job_key(jid), 'failed', total) end
  return total
end

-- Adds failures of a chunk to the job's; returns how many items they are.
local function add_failures(jid, chunk, failures)
  local total = count_failures(jid, {chunk, failures})
  if total > 0 then
    local before = call('HGET', job_key(jid, ':failed'), chunk)
    call('HSET', job_key(jid, ':failed'), chunk, before and before .. ';' .. failures or failures)
  end
  return total
end

-- A set of the offsets in a comma-separated list.
local function offsets_in(list)
  local set = {}
  for offset in string.gmatch(list, '%d+') do set[offset] = true end
  return set
end

-- Those failures whose offsets are in the set, or are not.
local function failures_in(failures, set, wanted)
  local found = {}
  for reason, offsets in string.gmatch(failures, '([^:;]+):([%d,]+)') do
    local some = {}
    for offset in string.gmatch(offsets, '%d+') do
      if (set[offset] or false) == wanted then some[#some + 1] = offset end
    end
    if #some > 0 then found[#found + 1] = reason .. ':' .. table.concat(some, ',') end
  end
  return table.concat(found, ';')
end

-- Ends a job of which nothing waits and nothing runs any more.
local function settle_job(jid)
  local job = load_job(jid, 'items', 'chunks', 'next', 'sealed', 'ending', 'succeeded', 'failed', 'retention', 'tenant')
  if not job or job.state ~= '' or call('SCARD', job_key(jid, ':live')) > 0 then return end
  if not job.ending and (not job.sealed or has_backlog(jid, job)) then return end
  local succeeded, failed = tonumber(job.succeeded), tonumber(job.failed)
  local skipped = job.items - succeeded - failed
  local state = job.ending or failed + skipped == 0 and 'SUCCEEDED' or succeeded == 0 and 'FAILED' or 'PARTIALLY_SUCCEEDED'
  call('HSET', job_key(jid), 'state', state, 'skipped', skipped, 'ended', now)
  call('HDEL', job_key(jid), 'ending', 'paused')
  set_end(jid, job.tenant, now + job.retention)
end
