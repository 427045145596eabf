-- -> {card, alive}... of every worker heard of in the last minutes
local cards, seen = KEYS[1] .. 'cards', KEYS[1] .. 'seen'
local found = {}
local members = call('ZRANGEBYSCORE', seen, now - 300000, '+inf', 'WITHSCORES')
for i = 1, #members, 2 do
  local card = call('HGET', cards, members[i])
  if card then found[#found + 1] = {card, tonumber(members[i + 1]) > now and 1 or 0} end
end
return found
