-- -> {model, requests, bytes, tokens, oldest wait in ms}...
local found = {}
for _, field in ipairs(call('HKEYS', adm)) do
  local model = string.match(field, '^([^|]+)|n$')
  if model then
    local v = call('HMGET', adm, model .. '|n', model .. '|b', model .. '|t')
    found[#found + 1] = {model, tonumber(v[1]), tonumber(v[2]), tonumber(v[3]), oldest_wait(model)}
  end
end
return found
