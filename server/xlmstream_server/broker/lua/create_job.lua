-- Makes a job, or joins the one that has its id.
-- jid, spec, digest, model, tenant, ttl, retention (ms), max attempts, max failed ('' any), most jobs of the tenant
-- -> CREATED | JOINED | REUSED | QUOTA jobs
local jid, tenant = ARGV[1], ARGV[5]
local twin = load_job(jid, 'digest')
if twin then return {twin.digest == ARGV[3] and 'JOINED' or 'REUSED'} end
local jobs = call('ZCARD', root .. 'jobs:' .. tenant)
if jobs >= tonumber(ARGV[10]) then return {'QUOTA', jobs} end
forget(jid, tenant) -- what is left of one whose time is over
call('HSET', job_key(jid), 'spec', ARGV[2], 'digest', ARGV[3], 'model', ARGV[4], 'tenant', tenant, 'created', now, 'ttl', ARGV[6],
  'retention', ARGV[7], 'max_attempts', ARGV[8], 'items', 0, 'bytes', 0, 'chunks', 0, 'state', '', 'next', 0, 'attempt', 1,
  'running', 0, 'succeeded', 0, 'failed', 0, 'skipped', 0, 'prompt', 0, 'completion', 0, 'rate_items', 0, 'rate_tokens', 0,
  'rate_at', now, 'version', 1)
if ARGV[9] ~= '' then call('HSET', job_key(jid), 'max_failed', ARGV[9]) end
call('ZADD', root .. 'jobs:' .. tenant, now, jid)
set_end(jid, tenant, now + ARGV[6])
return {'CREATED'}
