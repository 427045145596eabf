-- Accepts a request, or joins the execution that has its id.
-- id, envelope, digest, model, lane, tenant, tokens, deadline, journaled, detach, gateway, rerun,
-- most requests, bytes, tokens of the model, then of the tenant
-- -> QUEUED | JOINED state | REUSED | FULL bound limit retry_ms
local id, env, digest, model, lane, tenant = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local tokens, deadline, journaled, detach, gw, rerun = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local r = execution(id)

local twin = call('HMGET', r, 'state', 'digest', 'journaled')
if twin[1] then
  if twin[2] ~= digest then return {'REUSED'} end
  if rerun == '0' or not terminal(twin[1]) or twin[3] == '1' then return {'JOINED', twin[1]} end
end

local m, u = model .. '|', model .. '|' .. tenant .. '|'
local used = call('HMGET', adm, m .. 'n', m .. 'b', m .. 't', u .. 'n', u .. 'b', u .. 't')
local adds = {1, #env, tokens, 1, #env, tokens}
for i = 1, 6 do
  if tonumber(used[i] or 0) + adds[i] > tonumber(ARGV[12 + i]) then
    -- A queue as old as this is worked off in about this time: half of it later there is room.
    local retry = math.max(100, math.min(10000, math.floor(oldest_wait(model) / 2)))
    return {'FULL', i, ARGV[12 + i], retry}
  end
end

if twin[1] then call('DEL', r) end
local entry = enqueue(id, lane, model, tenant, tokens, #env)
account()
call('HSET', r, 'state', 'QUEUED', 'gws', gw, 'deadline', deadline, 'journaled', journaled, 'detach', detach, 'at', lane,
  'entry', entry, 'model', model, 'tenant', tenant, 'tokens', tokens, 'bytes', #env, 'digest', digest)
call('PEXPIREAT', r, deadline + RETAIN_MS)
call('SET', root .. 'e:' .. id, env, 'PXAT', deadline + RETAIN_MS)
return {'QUEUED'}
