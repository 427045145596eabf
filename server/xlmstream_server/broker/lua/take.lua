-- Gives executions to a worker: the only way to own one.
-- life, n, recover, cancelled event, deadline event, number of held, held ids..., models...
-- -> FENCED | OK now more bell {envelope, journal, attempt, alone, gateway}...
-- With recover 1, first what an earlier take gave and whose reply was lost: pending, but not held. `more` is 1 where some
-- of that is left for the next call. `bell` is the bell's last id: what is submitted from now on rings after it.
local cancelled, deadline_queue = ARGV[4], ARGV[5]
read_arguments(6)
if not call('ZSCORE', ws, life) then return {'FENCED'} end

-- One gateway to send to; where there are others emit finds them.
local function give(id, journaled, deaths, alone, gws)
  local journal = journaled == '1' and call('GET', root .. 'j:' .. id) or ''
  local gw = string.match(gws, '^[^,]*')
  if gw ~= gws then attend(life, id) end
  given[#given + 1] = {call('GET', root .. 'e:' .. id), journal, tonumber(deaths or 0) + 1, alone, gw}
  quarantined = quarantined or alone == 1
end

local function give_again(id)
  local v = call('HMGET', execution(id), 'journaled', 'deaths', 'alone', 'gws')
  give(id, v[1], v[2], tonumber(v[3] or 0), v[4])
end

local function start(model, lane, stream, entry)
  local f = fields(entry)
  charge(-1, model, lane, f.u, f.t, f.b)
  local r = execution(f.i)
  local v = call('HMGET', r, 'entry', 'deadline', 'gws', 'detach', 'orphan', 'deaths', 'journaled', 'n_ev')
  if v[1] ~= entry[1] then -- forgotten: its time was over long ago
    return drop(stream, entry[1])
  end
  if tonumber(v[2]) <= now then
    drop(stream, entry[1])
    return finish(f.i, 'EXPIRED', deadline_queue)
  end
  if not listened(f.i, v[3], v[4], v[5]) then
    drop(stream, entry[1])
    return finish(f.i, 'CANCELLED', cancelled)
  end
  local alone = lane == 'q' and 1 or 0
  call('HSET', r, 'state', 'RUNNING', 'owner', life, 'alone', alone)
  owned[#owned + 1], owned[#owned + 2] = f.i, '=' .. (v[8] or 0)
  give(f.i, v[7], v[6], alone, v[3])
end

if recover == '1' then
  for _, model in ipairs(models) do
    for _, lane in ipairs(REQUEST_LANES) do recover_from(lane_of(model, lane), give_again) end
  end
end

-- A quarantined execution runs alone: the first worker to see it takes nothing more until it is empty. That may have been
-- take_chunks, for a part of a job.
if not quarantined and n > 0 then
  for _, model in ipairs(models) do
    local waits = call('HMGET', adm, model .. '|q', model .. '|p')
    if waits[1] and empties(model) then
      if next(held) or #given > 0 then n = 0 else take_from(model, 'q', 1, start) end
      if quarantined then n = 0 end
    elseif waits[2] and call('GET', root .. 'quarantine:' .. model) == life then
      n = 0
    end
    if n == 0 then break end
  end
end

if not quarantined then
  for lane = 0, 3 do
    for _, model in ipairs(models) do take_from(model, tostring(lane), n, start) end
  end
end

took()
local bell = call('XREVRANGE', root .. 'bell', '+', '-', 'COUNT', 1)[1]
return {'OK', now, more, bell and bell[1] or '0-0', unpack(given)}
