-- Used by reap and handoff.

-- Takes a running execution from the life that owns it: back into the queue, or to its end where nobody wants it any more.
-- `died`: the worker died with it. Returns whether it waits again.
local function requeue(id, life, died, cancelled, deadline_compute, poisoned)
  local r = execution(id)
  local v = call('HMGET', r, 'model', 'at', 'entry', 'tenant', 'tokens', 'bytes', 'prog', 'alone', 'deaths', 'alone_deaths',
    'cancel', 'deadline', 'gws', 'detach', 'orphan')
  local stream = lane_of(v[1], v[2])
  call('XACK', stream, 'w', v[3])
  call('XDEL', stream, v[3])
  if v[11] == 'CANCELLED' or not listened(id, v[13], v[14], v[15]) then return finish(id, 'CANCELLED', cancelled) end
  if v[11] == 'EXPIRED' or tonumber(v[12]) <= now then return finish(id, 'EXPIRED', deadline_compute) end
  local deaths, alone_deaths = tonumber(v[9] or 0), tonumber(v[10] or 0)
  if died and v[7] ~= '1' then
    deaths = deaths + 1
    if v[8] == '1' then alone_deaths = alone_deaths + 1 end
    if alone_deaths >= 3 then
      call('XADD', root .. 'dead', 'MAXLEN', 10000, '*', 'id', id, 'env', call('GET', root .. 'e:' .. id), 'deaths', deaths,
        'worker', life)
      return finish(id, 'DEAD', poisoned)
    end
    call('HSET', r, 'deaths', deaths, 'alone_deaths', alone_deaths)
  end
  call('HDEL', r, 'owner', 'alone')
  enqueue(id, deaths > 0 and 'q' or '0', v[1], v[4], v[5], v[6])
  return true
end
