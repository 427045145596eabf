-- Gives parts of jobs to a worker: the only way to own one.
-- life, n, recover, items, number of held, held ids..., models...
-- -> FENCED | OK now more {id, spec, JobItems of its chunk, index of the chunk's first item, attempt, offsets,
--    saved JobResults, deaths, alone}...
-- recover and more as for take. No part is given behind those that have `items` items together.
local QUARANTINE_MS = 10000 -- so long a part that has to run alone waits for a worker that happens to hold nothing
local items_left = tonumber(ARGV[4])
read_arguments(5)
if not call('ZSCORE', ws, life) then return {'FENCED'} end

function wanted() return #given < n and items_left > 0 end

local function give(id, alone)
  local v = call('HMGET', execution(id), 'job', 'chunk', 'attempt', 'offsets', 'deaths', 'items')
  local jid = v[1]
  items_left = items_left - v[6]
  given[#given + 1] = {id, call('HGET', job_key(jid), 'spec'), get_input(jid, v[2]),
    tonumber(call('LINDEX', job_key(jid, ':at'), v[2])), tonumber(v[3]), v[4], call('GET', root .. 'j:' .. id) or '',
    tonumber(v[5] or 0), alone}
  quarantined = quarantined or alone == 1
end

local function give_again(id) give(id, tonumber(call('HGET', execution(id), 'alone') or 0)) end

local function start(model, lane, stream, entry)
  local f = fields(entry)
  charge(-1, model, lane, f.u, f.t, f.b)
  local v = call('HMGET', execution(f.i), 'entry', 'job', 'items', 'n_ev')
  if v[1] ~= entry[1] then return drop(stream, entry[1]) end
  local job = load_job(v[2], 'started')
  if not job then return close_part(f.i, '', 0, '', 0, 0, '') end -- forgotten
  local alone = lane == 'p' and 1 or 0
  call('HSET', execution(f.i), 'state', 'RUNNING', 'owner', life, 'alone', alone)
  call('HINCRBY', job_key(v[2]), 'running', v[3])
  if not job.started then call('HSET', job_key(v[2]), 'started', now, 'rate_at', now) end
  changed(v[2])
  owned[#owned + 1], owned[#owned + 2] = f.i, '=' .. (v[4] or 0)
  give(f.i, alone)
end

if recover == '1' then
  for _, model in ipairs(models) do
    for _, lane in ipairs({'p', 'c'}) do recover_from(lane_of(model, lane), give_again) end
  end
end

if not quarantined and n > 0 then
  for _, model in ipairs(models) do
    if call('HGET', adm, model .. '|p') then
      local empty = not next(held) and #given == 0
      local oldest = call('XRANGE', lane_of(model, 'p'), '-', '+', 'COUNT', 1)[1]
      local waited = now - tonumber(string.match(oldest[1], '^%d+'))
      if (empty or waited > QUARANTINE_MS) and empties(model) then
        if empty then take_from(model, 'p', 1, start) end
        if quarantined or not empty then n = 0 end
      end
    end
    if n == 0 then break end
  end
end

-- Gives the next part that waits; false where there is none.
local function take_one(model)
  local before = #given
  take_from(model, 'c', before + 1, start)
  return #given > before
end

-- First what was given back, then job by job in turn.
if not quarantined then
  for _, model in ipairs(models) do
    while wanted() and take_one(model) do end
    while wanted() and begin_next(model) do take_one(model) end
  end
end

took()
return {'OK', now, more, unpack(given)}
