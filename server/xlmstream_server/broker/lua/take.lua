-- Gives executions to a worker: the only way to own one.
-- life, n, recover, cancelled event, deadline event, number of held, held ids..., models...
-- -> FENCED | OK now more bell {envelope, journal, attempt, alone, gateway}...
-- With recover 1, first what an earlier take gave and whose reply was lost: pending, but not held. `more` is 1 where some
-- of that is left for the next call. `bell` is the bell's last id: what is submitted from now on rings after it.
local life, n, recover, cancelled, deadline_queue = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local held, models = {}, {}
local last_held = 6 + tonumber(ARGV[6])
for i = 7, last_held do held[ARGV[i]] = true end
for i = last_held + 1, #ARGV do models[#models + 1] = ARGV[i] end
if not call('ZSCORE', ws, life) then return {'FENCED'} end

local given, owned, quarantined, more = {}, {}, false, 0

-- One gateway to send to; where there are others emit finds them.
local function give(id, journaled, deaths, alone, gws)
  local journal = journaled == '1' and call('GET', root .. 'j:' .. id) or ''
  local gw = string.match(gws, '^[^,]*')
  if gw ~= gws then attend(life, id) end
  given[#given + 1] = {call('GET', root .. 'e:' .. id), journal, tonumber(deaths or 0) + 1, alone, gw}
  quarantined = quarantined or alone == 1
end

local function read(stream, count, from)
  local got = redis.pcall('XREADGROUP', 'GROUP', 'w', life, 'COUNT', count, 'STREAMS', stream, from)
  if got and got.err then
    if not string.find(got.err, 'NOGROUP', 1, true) then return error(got.err) end
    call('XGROUP', 'CREATE', stream, 'w', '0', 'MKSTREAM')
    got = call('XREADGROUP', 'GROUP', 'w', life, 'COUNT', count, 'STREAMS', stream, from)
  end
  return got and got[1][2] or {}
end

-- An entry's fields as a table: i id, u tenant, t tokens, b bytes.
local function fields(entry)
  local f = {}
  for i = 1, #entry[2], 2 do f[entry[2][i]] = entry[2][i + 1] end
  return f
end

local function drop(stream, entry)
  call('XACK', stream, 'w', entry)
  call('XDEL', stream, entry)
end

local function recover_from(stream)
  local from = '0'
  while true do
    local entries = read(stream, 64, from)
    if #entries == 0 then return end
    for _, entry in ipairs(entries) do
      from = entry[1]
      local id = entry[2] and #entry[2] > 0 and fields(entry).i
      if not (id and held[id]) then
        local v = id and call('HMGET', execution(id), 'entry', 'journaled', 'deaths', 'alone', 'gws') or {}
        if v[1] ~= entry[1] then
          drop(stream, entry[1])
        elseif #given < n then
          give(id, v[2], v[3], tonumber(v[4] or 0), v[5])
        else
          more = 1
        end
      end
    end
  end
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

-- At most 16 reads, so that a lane full of expired entries does not hold up the broker.
local function take_from(model, lane, most)
  local stream = lane_of(model, lane)
  for _ = 1, 16 do
    if #given >= most then return end
    local entries = read(stream, most - #given, '>')
    if #entries == 0 then return end
    for _, entry in ipairs(entries) do start(model, lane, stream, entry) end
  end
end

if recover == '1' then
  for _, model in ipairs(models) do
    for _, lane in ipairs(LANES) do recover_from(lane_of(model, lane)) end
  end
end

-- A quarantined execution runs alone: the first worker to see it takes nothing more until it is empty.
if not quarantined and n > 0 then
  for _, model in ipairs(models) do
    if call('HGET', adm, model .. '|q') then
      local holder = call('GET', root .. 'quarantine:' .. model)
      if not holder or holder == life or not call('ZSCORE', ws, holder) then
        call('SET', root .. 'quarantine:' .. model, life, 'PX', 5000)
        if next(held) or #given > 0 then n = 0 else take_from(model, 'q', 1) end
        if quarantined then n = 0 end
        if n == 0 then break end
      end
    end
  end
end

if not quarantined then
  for lane = 0, 3 do
    for _, model in ipairs(models) do take_from(model, tostring(lane), n) end
  end
end

if #owned > 0 then call('HSET', root .. 'own:' .. life, unpack(owned)) end
account()
send('')
local bell = call('XREVRANGE', root .. 'bell', '+', '-', 'COUNT', 1)[1]
return {'OK', now, more, bell and bell[1] or '0-0', unpack(given)}
