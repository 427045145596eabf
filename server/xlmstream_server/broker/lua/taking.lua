-- What take and take_chunks share: reading the lanes for a life.

local life, n, recover = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local held, models = {}, {}
local given, owned, quarantined, more = {}, {}, false, 0

-- Whether to give one more.
local function wanted() return #given < n end

-- Reads what the life holds, a number and ids, and its models from ARGV[at] on.
local function read_arguments(at)
  local last_held = at + tonumber(ARGV[at])
  for i = at + 1, last_held do held[ARGV[i]] = true end
  for i = last_held + 1, #ARGV do models[#models + 1] = ARGV[i] end
end

local function read(stream, count, from)
  local got = redis.pcall('XREADGROUP', 'GROUP', 'w', life, 'COUNT', count, 'STREAMS', stream, from)
  if got and got.err then
    if not string.find(got.err, 'NOGROUP', 1, true) then return error(got.err) end
    call('XGROUP', 'CREATE', stream, 'w', '0', 'MKSTREAM')
    got = call('XREADGROUP', 'GROUP', 'w', life, 'COUNT', count, 'STREAMS', stream, from)
  end
  return got and got[1][2] or {}
end

-- An entry's fields as a table: i id, u tenant, t tokens, b bytes.
local function fields(entry)
  local f = {}
  for i = 1, #entry[2], 2 do f[entry[2][i]] = entry[2][i + 1] end
  return f
end

local function drop(stream, entry)
  call('XACK', stream, 'w', entry)
  call('XDEL', stream, entry)
end

-- Gives again what is pending for the life in a lane, but not held; give_again(id) does it.
local function recover_from(stream, give_again)
  local from = '0'
  while true do
    local entries = read(stream, 64, from)
    if #entries == 0 then return end
    for _, entry in ipairs(entries) do
      from = entry[1]
      local id = entry[2] and #entry[2] > 0 and fields(entry).i
      if not (id and held[id]) then
        if not id or call('HGET', execution(id), 'entry') ~= entry[1] then
          drop(stream, entry[1])
        elseif wanted() then
          give_again(id)
        else
          more = 1
        end
      end
    end
  end
end

-- At most 16 reads, so that a lane full of expired entries does not hold up the broker.
local function take_from(model, lane, most, start)
  local stream = lane_of(model, lane)
  for _ = 1, 16 do
    if #given >= most then return end
    local entries = read(stream, most - #given, '>')
    if #entries == 0 then return end
    for _, entry in ipairs(entries) do start(model, lane, stream, entry) end
  end
end

-- Whether this life is the one to empty itself for what is quarantined.
local function empties(model)
  local holder = call('GET', root .. 'quarantine:' .. model)
  if holder and holder ~= life and call('ZSCORE', ws, holder) then return false end
  call('SET', root .. 'quarantine:' .. model, life, 'PX', 5000)
  return true
end

-- Writes down what was given.
local function took()
  if #owned > 0 then call('HSET', root .. 'own:' .. life, unpack(owned)) end
  account()
  send('')
end
