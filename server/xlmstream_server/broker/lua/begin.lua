-- Begins a worker's life. life, lease_ms, models...  -> OK now
call('ZADD', ws, now + ARGV[2], ARGV[1])
call('HSET', lives, ARGV[1], table.concat(ARGV, '\n', 3))
return {'OK', now}
