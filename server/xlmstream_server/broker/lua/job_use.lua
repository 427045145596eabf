-- tenant -> bytes that its jobs keep
return {tonumber(call('HGET', root .. 'use', 't' .. ARGV[1]) or 0)}
