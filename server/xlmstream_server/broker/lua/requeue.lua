-- Used by reap and handoff.

-- Takes a running execution from the life that owns it: back into the queue, or to its end where nobody wants it any more.
-- `died`: the worker died with it. Returns whether it waits again.
local function requeue(id, life, died, cancelled, deadline_compute, poisoned)
  local r = execution(id)
  local v = call('HMGET', r, 'model', 'at', 'entry', 'tenant', 'tokens', 'bytes', 'alone', 'deaths', 'alone_deaths',
    'cancel', 'deadline', 'gws', 'detach', 'orphan')
  local n_ev, progressed = progress(life, id)
  if v[13] == 'j' then return requeue_part(id, life, died, progressed, poisoned) end
  local stream = lane_of(v[1], v[2])
  call('XACK', stream, 'w', v[3])
  call('XDEL', stream, v[3])
  call('HDEL', root .. 'own:' .. life, id)
  call('SREM', root .. 'att:' .. life, id)
  call('HSET', r, 'n_ev', n_ev)
  if v[10] == 'CANCELLED' or not listened(id, v[12], v[13], v[14]) then return finish(id, 'CANCELLED', cancelled) end
  if v[10] == 'EXPIRED' or tonumber(v[11]) <= now then return finish(id, 'EXPIRED', deadline_compute) end
  local deaths, alone_deaths = tonumber(v[8] or 0), tonumber(v[9] or 0)
  if died and not progressed then
    deaths = deaths + 1
    if v[7] == '1' then alone_deaths = alone_deaths + 1 end
    if alone_deaths >= 3 then
      call('XADD', root .. 'dead', 'MAXLEN', 10000, '*', 'id', id, 'env', call('GET', root .. 'e:' .. id), 'deaths', deaths,
        'worker', life)
      return finish(id, 'DEAD', poisoned)
    end
    call('HSET', r, 'deaths', deaths, 'alone_deaths', alone_deaths)
  end
  local lane = deaths > 0 and 'q' or '0'
  local entry = enqueue(id, lane, v[1], v[4], v[5], v[6])
  call('HSET', r, 'state', 'QUEUED', 'at', lane, 'entry', entry)
  return true
end
