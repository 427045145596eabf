-- A worker has ended in order: its models stay known, without it. KEYS[1] as for register. worker id, life  -> OK
-- The card of a later life under the same id stays as it is.
local card = call('HGET', KEYS[1] .. 'cards', ARGV[1])
if card and string.find(card, ARGV[2], 1, true) then call('ZADD', KEYS[1] .. 'seen', now, ARGV[1]) end
return {'OK'}
