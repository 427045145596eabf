-- Extends a lease, also a late one that nobody has reaped. life, lease_ms  -> FENCED | OK now
if not call('ZSCORE', ws, ARGV[1]) then return {'FENCED'} end
call('ZADD', ws, now + ARGV[2], ARGV[1])
return {'OK', now}
