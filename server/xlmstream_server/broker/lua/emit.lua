-- Takes one step's output of a worker: appends to the journals, ends what ended, one frame a gateway.
-- life, number of models, models..., then of each running row: id, first event, number of events, mark, events
--   mark: '' nothing, '+' progress although nothing is sent, else the terminal state
-- -> FENCED | OK now waiting {id, reason}... {id, n_ev}...
-- Positional: events that n_ev covers are skipped, so a repeated call changes nothing; beyond a gap nothing is taken and the
-- position is returned (the last list). The list before it names the rows to end.
local life, n_models = ARGV[1], tonumber(ARGV[2])
if not call('ZSCORE', ws, life) then return {'FENCED'} end
local stops, gaps = {}, {}

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

local function row(id, first, count, mark, events)
  local r = execution(id)
  local v = call('HMGET', r, 'owner', 'n_ev', 'prog', 'gws', 'journaled', 'cancel', 'deadline', 'detach', 'orphan')
  if v[1] ~= life then
    stops[#stops + 1], stops[#stops + 2] = id, 'LOST'
    return
  end
  local n_ev = tonumber(v[2] or 0)
  if first > n_ev then
    gaps[#gaps + 1], gaps[#gaps + 2] = id, n_ev
    return
  end
  local ends = mark ~= '' and mark ~= '+'
  local fresh = first + count - n_ev
  if fresh > 0 then
    if fresh < count then events = behind(events, count - fresh) end
    if v[5] == '0' and #events > INLINE_BYTES then
      call('HSET', r, 'journaled', 1)
      v[5] = '1'
    end
    if v[5] == '1' then
      call('APPEND', root .. 'j:' .. id, events)
      if n_ev == 0 then call('PEXPIREAT', root .. 'j:' .. id, v[7] + RETAIN_MS) end
    end
    post(v[4], id, n_ev, fresh, events, ends)
    if not ends then call('HSET', r, 'n_ev', n_ev + fresh, 'prog', 1) end
  elseif mark == '+' and v[3] ~= '1' then
    call('HSET', r, 'prog', 1)
  end
  if ends then
    local e = call('HMGET', r, 'model', 'at', 'entry')
    local stream = lane_of(e[1], e[2])
    call('XACK', stream, 'w', e[3])
    call('XDEL', stream, e[3])
    call('HSET', r, 'state', mark, 'n_ev', n_ev + math.max(fresh, 0))
    call('HDEL', r, 'owner', 'at', 'entry', 'alone', 'cancel', 'orphan')
    return retain(id, v[5])
  end
  local reason = v[6] or tonumber(v[7]) <= now and 'EXPIRED' or not listened(id, v[4], v[8], v[9]) and 'ORPHANED'
  if reason then stops[#stops + 1], stops[#stops + 2] = id, reason end
end

for i = n_models + 3, #ARGV, 5 do
  row(ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4])
end
send(life)

local waiting = 0
for i = 3, n_models + 2 do waiting = waiting + tonumber(call('HGET', adm, ARGV[i] .. '|n') or 0) end
return {'OK', now, waiting, stops, gaps}
