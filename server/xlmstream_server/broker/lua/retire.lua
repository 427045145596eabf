-- Ends a worker's life. What it still owns is reaped by others at once. life  -> OK now
local life = ARGV[1]
call('ZREM', ws, life)
local models, pending = call('HGET', lives, life), 0
for model in string.gmatch(models or '', '[^\n]+') do
  for _, lane in ipairs(LANES) do
    local list = redis.pcall('XPENDING', lane_of(model, lane), 'w', '-', '+', 1, life)
    if not list.err then
      if #list > 0 then pending = 1 else call('XGROUP', 'DELCONSUMER', lane_of(model, lane), 'w', life) end
    end
  end
end
if pending == 0 then
  call('HDEL', lives, life)
  call('DEL', root .. 'own:' .. life, root .. 'att:' .. life)
end
return {'OK', now}
