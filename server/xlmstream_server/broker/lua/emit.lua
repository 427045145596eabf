-- Takes one step's output of a worker: appends to the journals, ends what ended, one frame a gateway.
-- life, number of models, models..., then for each gateway: gateway, number of rows, and of each row:
--   id, first event, number of events, mark, events
--   mark: 'j' journaled or 'u' not, then '' nothing, '+' progress although nothing is sent, or the terminal state
-- -> FENCED | OK now waiting {id, reason}... {id, n_ev}... {gateway}... waiting chunks
-- Positional: events that are published are skipped, so a repeated call changes nothing; beyond a gap nothing is taken and the
-- position is returned (the second list). The first list names rows to end, whether they had output or not; the third the
-- gateways that are away: the rows of those have to be named in the next call, output or not.
local life, n_models = ARGV[1], tonumber(ARGV[2])
if not call('ZSCORE', ws, life) then return {'FENCED'} end
local own, att = root .. 'own:' .. life, root .. 'att:' .. life
local stops, gaps, away = {}, {}, {}
local moved, ended = {}, {}

-- What follows the first `events` messages of a journal.
local function behind(bytes, events)
  local at = 1
  for _ = 1, events do
    local length, scale, byte = 0, 1, nil
    repeat
      byte = string.byte(bytes, at)
      length, scale, at = length + byte % 128 * scale, scale * 128, at + 1
    until byte < 128
    at = at + length
  end
  return string.sub(bytes, at)
end

-- Rows that are not as they were when taken: their listeners, and why they should end.
local known = {}
local function look(id)
  if not known[id] then
    local v = call('HMGET', execution(id), 'gws', 'cancel', 'detach', 'orphan')
    local reason = v[2] or v[1] and not listened(id, v[1], v[3], v[4]) and 'ORPHANED'
    known[id] = {gws = v[1] or '', reason = reason}
  end
  return known[id]
end

local function finish_row(id, state, n_ev, journaled)
  local v = call('HMGET', execution(id), 'model', 'at', 'entry')
  ended[#ended + 1] = id
  known[id] = {}
  if not v[1] then return end -- forgotten long after its deadline
  local stream = lane_of(v[1], v[2])
  call('XACK', stream, 'w', v[3])
  call('XDEL', stream, v[3])
  retain(id, state, n_ev, journaled)
end

local function row(gw, there, value, id, first, count, mark, events)
  if not value then
    stops[#stops + 1], stops[#stops + 2] = id, 'LOST'
    return
  end
  local n_ev = tonumber(value) or tonumber(string.sub(value, 2))
  if first > n_ev then
    gaps[#gaps + 1], gaps[#gaps + 2] = id, n_ev
    return
  end
  local journaled, ends = string.byte(mark) == 106, #mark > 2
  local fresh = first + count - n_ev
  if fresh > 0 then
    if fresh < count then events = behind(events, count - fresh) end
    if #events > INLINE_BYTES and not journaled then
      call('HSET', execution(id), 'journaled', 1)
      journaled = true
    end
    if journaled then
      call('APPEND', root .. 'j:' .. id, events)
      if n_ev == 0 then
        call('PEXPIREAT', root .. 'j:' .. id, (call('HGET', execution(id), 'deadline') or now) + RETAIN_MS)
      end
    end
    local item = frame_item(id, n_ev, fresh, events, ends)
    if known[id] or not there then post_all(look(id).gws, item) else post(gw, item) end
    n_ev = n_ev + fresh
  end
  if ends then
    finish_row(id, string.sub(mark, 2), n_ev, journaled)
  elseif fresh > 0 or mark == 'u+' then
    moved[#moved + 1], moved[#moved + 2] = id, n_ev
  end
  if not there and not ends then -- look at it until the gateway is back
    attend(life, id)
    look(id)
  end
end

for _, id in ipairs(call('SMEMBERS', att)) do look(id) end

local at = n_models + 3
while at < #ARGV do
  local gw, n_rows, ids = ARGV[at], tonumber(ARGV[at + 1]), {}
  local there = gateway(gw)
  if not there then away[#away + 1] = gw end
  for i = 1, n_rows do ids[i] = ARGV[at + 5 * i - 3] end
  local values = n_rows > 0 and call('HMGET', own, unpack(ids)) or {}
  at = at + 2
  for i = 1, n_rows do
    row(gw, there, values[i], ids[i], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3], ARGV[at + 4])
    at = at + 5
  end
end

if #moved > 0 then call('HSET', own, unpack(moved)) end
if #ended > 0 then
  call('HDEL', own, unpack(ended))
  call('SREM', att, unpack(ended))
end
for id, one in pairs(known) do
  if one.reason then stops[#stops + 1], stops[#stops + 2] = id, one.reason end
end
send(life)

local waiting, chunks = 0, 0
for i = 3, n_models + 2 do
  local v = call('HMGET', adm, ARGV[i] .. '|n', ARGV[i] .. '|c')
  waiting = waiting + (v[1] or 0)
  chunks = chunks + (v[2] or 0) + call('LLEN', root .. 'turn:' .. ARGV[i])
end
return {'OK', now, waiting, stops, gaps, away, chunks}
