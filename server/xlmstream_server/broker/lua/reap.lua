-- Moves the work of lives whose lease has run out back into the queue, at most 32 entries a call.
-- own life, cancelled event, deadline event, poisoned event  -> FENCED | OK now moved
local own = ARGV[1]
local lease = call('ZSCORE', ws, own)
if not lease then return {'FENCED'} end
if tonumber(lease) <= now then return {'OK', now, 0} end -- late ourselves: renew first

local moved, budget = 0, 32

local function reap_lane(life, stream)
  local pending = redis.pcall('XPENDING', stream, 'w', '-', '+', budget, life)
  if pending.err then return end
  for _, p in ipairs(pending) do
    budget = budget - 1
    local entry = call('XRANGE', stream, p[1], p[1])[1]
    local id
    if entry then
      for i = 1, #entry[2], 2 do
        if entry[2][i] == 'i' then id = entry[2][i + 1] end
      end
    end
    if id and call('HGET', execution(id), 'entry') == p[1] and progress(life, id) then
      if requeue(id, life, true, ARGV[2], ARGV[3], ARGV[4]) then moved = moved + 1 end
    else
      call('XACK', stream, 'w', p[1])
      call('XDEL', stream, p[1])
    end
  end
end

for _, life in ipairs(call('HKEYS', lives)) do
  local ends = call('ZSCORE', ws, life)
  if life ~= own and (not ends or tonumber(ends) <= now) then
    call('ZREM', ws, life) -- the fence: from here on it can publish nothing
    local models = call('HGET', lives, life)
    for model in string.gmatch(models, '[^\n]+') do
      for _, lane in ipairs(LANES) do
        if budget > 0 then reap_lane(life, lane_of(model, lane)) end
      end
    end
    if budget > 0 then
      for model in string.gmatch(models, '[^\n]+') do
        for _, lane in ipairs(LANES) do redis.pcall('XGROUP', 'DELCONSUMER', lane_of(model, lane), 'w', life) end
      end
      call('HDEL', lives, life)
      call('DEL', root .. 'own:' .. life, root .. 'att:' .. life)
    end
  end
end
account()
send('')
return {'OK', now, moved}
