-- Parts whose worker died. Used by reap and handoff, behind part.lua.

-- Reads a varint at `at`; returns it and the place behind it.
local function read_varint(bytes, at)
  local value, scale = 0, 1
  while true do
    local byte = string.byte(bytes, at)
    value, scale, at = value + byte % 128 * scale, scale * 128, at + 1
    if byte < 128 then return value, at end
  end
end

-- Calls found(field, payload) for each length-delimited field of a message.
local function each_field(bytes, found)
  local at, tag, length = 1, nil, nil
  while at <= #bytes do
    tag, at = read_varint(bytes, at)
    local kind = tag % 8
    if kind == 0 then
      length, at = read_varint(bytes, at)
    elseif kind == 1 then
      at = at + 8
    elseif kind == 5 then
      at = at + 4
    else
      length, at = read_varint(bytes, at)
      found((tag - kind) / 8, string.sub(bytes, at, at + length - 1))
      at = at + length
    end
  end
end

-- The offsets a part has still to run, as a list.
local function offsets_left(part_items, offsets, tally)
  local done, left = offsets_in(tally and string.match(tally, '[^\n]*$') or ''), {}
  if offsets == '' then
    for i = 0, part_items - 1 do
      if not done[tostring(i)] then left[#left + 1] = tostring(i) end
    end
  else
    for offset in string.gmatch(offsets, '%d+') do
      if not done[offset] then left[#left + 1] = offset end
    end
  end
  return left
end

-- Ends the one item that a part has left with the status in `poisoned`, an Event with field `failed`, behind its length.
local function bury(id, jid, chunk, attempt, offset, poisoned, deaths, life)
  local item, key, n = nil, '', 0
  each_field(get_input(jid, chunk), function(_, bytes)
    if n == tonumber(offset) then item = bytes end
    n = n + 1
  end)
  each_field(item, function(field, bytes) if field == 1 then key = bytes end end)
  local _, first = chunk_items(jid, chunk, 0)
  local _, at = read_varint(poisoned, 1)
  local result = (first + offset > 0 and '\8' .. varint(first + offset) or '') .. (key ~= '' and '\18' .. varint(#key) .. key or '')
    .. '\24' .. varint(tonumber(attempt)) .. '\82' .. string.sub(poisoned, at + 1)
  call('XADD', root .. 'dead', 'MAXLEN', 10000, '*', 'id', id, 'env', item, 'deaths', deaths, 'worker', life)
  close_part(id, '\10' .. varint(#result) .. result, 0, 'POISONED_INPUT:' .. offset, 0, 0, offset)
end

-- Puts an equal share of what is left of a part into each of up to 16 parts that run alone.
local function split(id, jid, job, v, left)
  local shares = math.min(16, #left)
  for i = 1, shares do
    local from, to = math.floor((i - 1) * #left / shares) + 1, math.floor(i * #left / shares)
    local offsets = table.concat(left, ',', from, to)
    local before = failures_in(v.before, offsets_in(offsets), true)
    make_part(jid, job, v.part .. '.' .. i, v.chunk, v.attempt, to - from + 1, offsets, before, 'p')
  end
  close_as_saved(id, true)
end

-- As requeue, for a part of a job.
local function requeue_part(id, life, died, progressed, poisoned)
  local fields = {'job', 'chunk', 'part', 'attempt', 'items', 'offsets', 'before', 'model', 'at', 'entry', 'alone', 'deaths',
    'alone_deaths', 'tally'}
  local v = {}
  for i, value in ipairs(call('HMGET', execution(id), unpack(fields))) do v[fields[i]] = value end
  local jid = v.job
  local job = load_job(jid, 'model', 'tenant', 'paused', 'ending', 'max_attempts')
  if not job or job.ending then return close_as_saved(id) end
  local deaths, alone_deaths = tonumber(v.deaths or 0), tonumber(v.alone_deaths or 0)
  if died and not progressed then
    deaths = deaths + 1
    if v.alone == '1' then alone_deaths = alone_deaths + 1 end
    local left = alone_deaths > 0 and offsets_left(tonumber(v.items), v.offsets, v.tally) or {}
    if #left > 0 and tonumber(v.items) > 1 then
      return split(id, jid, job, v, left)
    elseif #left > 0 and alone_deaths >= tonumber(job.max_attempts) then
      return bury(id, jid, v.chunk, v.attempt, left[1], poisoned, deaths, life)
    end
  end
  call('XACK', lane_of(v.model, v.at), 'w', v.entry)
  call('XDEL', lane_of(v.model, v.at), v.entry)
  call('HDEL', root .. 'own:' .. life, id)
  call('SREM', root .. 'att:' .. life, id)
  call('HSET', execution(id), 'deaths', deaths, 'alone_deaths', alone_deaths)
  call('HINCRBY', job_key(jid), 'running', -v.items)
  queue_part(id, deaths > 0 and 'p' or 'c', v.model, job.tenant, job.paused)
  changed(jid)
  return true
end
