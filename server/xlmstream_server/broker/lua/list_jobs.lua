-- The newest jobs of a tenant that are older than (created, jid). tenant, created or +inf, jid, n -> {jid, created}...
local found, at = {}, 0
local index, n = root .. 'jobs:' .. ARGV[1], tonumber(ARGV[4])
while #found < n do
  local page = call('ZREVRANGEBYSCORE', index, ARGV[2], '-inf', 'WITHSCORES', 'LIMIT', at, 100)
  for i = 1, #page, 2 do
    local older = page[i + 1] ~= ARGV[2] or page[i] < ARGV[3]
    if older and #found < n and load_job(page[i]) then found[#found + 1] = {page[i], page[i + 1]} end
  end
  if #page < 200 then break end
  at = at + 100
end
return found
