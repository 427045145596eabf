-- A worker tells what it serves; KEYS[1] is the registry's root, "xs:{registry}:". worker id, card, alive_ms  -> OK
--   cards  hash  worker id -> WorkerCard         5 min
--   seen   zset  worker id -> end of its time    5 min
local cards, seen = KEYS[1] .. 'cards', KEYS[1] .. 'seen'
for _, wid in ipairs(call('ZRANGEBYSCORE', seen, '-inf', now - 300000)) do
  call('HDEL', cards, wid)
  call('ZREM', seen, wid)
end
call('HSET', cards, ARGV[1], ARGV[2])
call('ZADD', seen, now + ARGV[3], ARGV[1])
call('PEXPIRE', cards, 330000)
call('PEXPIRE', seen, 330000)
return {'OK'}
