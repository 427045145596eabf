-- What its owner may do to a job. jid, verb, argument
--   seal    number of items it must have, or ''      -> NOTFOUND | GAP committed | OK
--   cancel                                           -> NOTFOUND | OK
--   pause, resume                                    -> NOTFOUND | STATE | OK
--   retry   the call's own key                      -> NOTFOUND | STATE | OK
--   delete                                           -> NOTFOUND | STATE | OK
local jid, verb, argument = ARGV[1], ARGV[2], ARGV[3]
local job = load_job(jid, 'model', 'tenant', 'items', 'sealed', 'paused', 'ending', 'turn', 'retry', 'ttl')
if not job then return {'NOTFOUND'} end
local key, ended = job_key(jid), job.state ~= ''

-- Changes a part that waits (in a lane or for the job's resumption) into the other of both.
local function each_waiting(state, change)
  for _, part in ipairs(call('SMEMBERS', job_key(jid, ':live'))) do
    local v = call('HMGET', execution(jid .. '.' .. part), 'state', 'at', 'entry')
    if v[1] == state then change(jid .. '.' .. part, v[2], v[3]) end
  end
end

local SAME = {'OK'} -- and nothing has changed
local verbs = {}

function verbs.seal()
  if argument ~= '' and tonumber(argument) ~= tonumber(job.items) then return {'GAP', tonumber(job.items)} end
  if ended or job.sealed then return SAME end
  call('HSET', key, 'sealed', 1)
  settle_job(jid)
end

function verbs.cancel()
  if ended or job.ending then return SAME end
  stop_job(jid, 'CANCELLED')
end

function verbs.pause()
  if ended or job.ending then return {'STATE'} end
  if job.paused then return SAME end
  call('HSET', key, 'paused', 1)
  if job.turn then leave_turns(jid, job.model) end
  each_waiting('QUEUED', function(id, lane, entry)
    withdraw_part(id, job.model, lane, entry, job.tenant)
    queue_part(id, lane, job.model, job.tenant, true)
  end)
end

function verbs.resume()
  if ended or job.ending then return {'STATE'} end
  if not job.paused then return SAME end
  call('HDEL', key, 'paused')
  each_waiting('HELD', function(id, lane) queue_part(id, lane, job.model, job.tenant, false) end)
  join_turns(jid)
end

function verbs.retry()
  if argument == job.retry then return SAME end
  if not ended then return {'STATE'} end
  if call('EXISTS', job_key(jid, ':failed')) == 0 then return SAME end
  call('RENAME', job_key(jid, ':failed'), job_key(jid, ':todo'))
  call('DEL', job_key(jid, ':errors'))
  call('HINCRBY', key, 'attempt', 1)
  call('HSET', key, 'state', '', 'failed', 0, 'sealed', 1, 'retry', argument, 'rate_items', 0, 'rate_tokens', 0, 'rate_at', now)
  call('HDEL', key, 'ended', 'started')
  set_end(jid, job.tenant, now + job.ttl)
  join_turns(jid)
end

function verbs.delete()
  if not ended then return {'STATE'} end
  forget(jid, job.tenant)
  return SAME
end

local answer = verbs[verb]()
if not answer then changed(jid) end
account()
return answer or {'OK'}
