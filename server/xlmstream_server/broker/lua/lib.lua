-- What every script begins with. KEYS[1] is the shard's root, "xs:{s}:"; a script touches keys below it only.
--
--   key below the root    type    holds                                             ends
--   r:<id>                hash    an execution, fields below                        deadline + 600 s; 600 s (60 s if not journaled) after its end
--   e:<id>                string  its Envelope                                      with r
--   j:<id>                string  its journal: every Event behind its length        with r
--   lane:<m>:<l>          stream  what waits for model m, group "w"; l = q quarantine, 0 requeued, 1 interactive,
--                                 2 standard, 3 bulk; entry = i id, u tenant, t tokens, b bytes; and for parts of jobs (see
--                                 job.lua) p quarantine, c others
--                                                                                   entries: when the execution ends or is requeued
--   quarantine:<m>        string  life that empties itself to run from lane q or p  5 s
--   adm                   hash    <m>|n, |b, |t, |q: requests, bytes, tokens, quarantined requests that wait;
--                                 <m>|<tenant>|n, |b, |t; <m>|c, |p: parts of jobs that wait, in lane p
--                                                                                   fields: at zero
--   bell                  stream  wakes idle workers; owns nothing                  one entry
--   dead                  stream  executions that kill workers: id, env, deaths, worker; of a part of a job env is its
--                                 JobItem                                           10,000 entries
--   ws                    zset    life ("wid:epoch") -> end of its lease; presence is the fence
--                                                                                   members: reap, retire
--   lives                 hash    life -> its models, one a line; present while it may own entries
--                                                                                   fields: reap, retire
--   own:<life>            hash    id -> events published, of each execution the life runs; "=" before the number
--                                 until this start has made progress                fields: end, requeue; reap, retire
--   att:<life>            set     those whose listeners or fate have changed since they were taken: emit looks at their
--                                 r, and at no other                                members: as own
--   gw:<gw>               string  "<most frames>:<base>": the gateway lives         15 s
--   out:<gw>              stream  its frames, ids <base>-0, -1, -2, ...             60 s; trimmed as it reads
--
--   r: state digest model lane tenant tokens bytes deadline journaled detach   set by submit
--      n_ev      events published when it last stopped running; while it runs see own
--      gws       gateways that listen, comma-separated
--      orphan    since when nobody listens
--      at, entry the lane and stream entry it waits or runs under
--      owner     the life it runs in; means nothing unless RUNNING
--      cancel    CANCELLED or EXPIRED: to be ended by its owner
--      deaths    starts that ended with the worker and without progress
--      alone     1: this start runs alone; alone_deaths: those of `deaths`
--
-- Lua has no rollback: every check comes before the first write. Every script may be repeated after a lost reply.

local RETAIN_MS, RETAIN_UNJOURNALED_MS = 600000, 60000
local DETACH_MS = 30000 -- a DETACH execution without a listener
local ABSENT_MS = 5000 -- any other whose gateways are gone: they may be on their way back, as after a broker's restart
local INLINE_BYTES = 65536 -- larger results are read from the journal
local OUT_BYTES = 67108864 -- of frames a gateway has not read
local REQUEST_LANES = {'q', '0', '1', '2', '3'}
local LANES = {'q', '0', '1', '2', '3', 'p', 'c'}

local root, call = KEYS[1], redis.call
local adm, ws, lives = root .. 'adm', root .. 'ws', root .. 'lives'
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function execution(id) return root .. 'r:' .. id end
local function lane_of(model, lane) return root .. 'lane:' .. model .. ':' .. lane end
local function terminal(state) return state ~= 'QUEUED' and state ~= 'RUNNING' end

-- ---------------------------------------------------------------- frames

local outbox, gateways = {}, {}

-- "<most frames>:<base>" of a gateway that lives, else false.
local function gateway(gw)
  if gateways[gw] == nil then gateways[gw] = call('GET', root .. 'gw:' .. gw) end
  return gateways[gw]
end

local function varint(n)
  if n < 128 then return string.char(n) end
  return string.char(128 + n % 128) .. varint(math.floor(n / 128))
end

-- A FrameItem as it stands in a Frame.
local function frame_item(id, first, count, events, ends)
  if #events > INLINE_BYTES then events = '' end
  local at, n, length, last = varint(first), varint(count), varint(#events), ends and '\40\1' or ''
  local size = varint(#id + #at + #n + #length + #events + #last + 5)
  return '\18' .. size .. '\10' .. varint(#id) .. id .. '\16' .. at .. '\24' .. n .. '\34' .. length .. events .. last
end

-- Puts an item into the next frame of a living gateway.
local function post(gw, item)
  local items = outbox[gw]
  if items then items[#items + 1] = item else outbox[gw] = {item} end
end

-- Puts it into the next frame of every living one of several, comma-separated.
local function post_all(gws, item)
  for gw in string.gmatch(gws, '[^,]+') do
    if gateway(gw) then post(gw, item) end
  end
end

-- Sends what was posted, one Frame a gateway. `life` is empty for frames that no worker wrote.
local function send(life)
  local head = life == '' and '' or '\10' .. varint(#life) .. life
  for gw, items in pairs(outbox) do
    local most, base = string.match(gateways[gw], '^(%d+):(%d+)$')
    local frame = head .. table.concat(items)
    most = math.min(tonumber(most), math.max(8, math.floor(OUT_BYTES / #frame)))
    call('XADD', root .. 'out:' .. gw, 'NOMKSTREAM', 'MAXLEN', '=', most, base .. '-*', 'f', frame)
  end
end

-- ---------------------------------------------------------------- the queue

local charges = {}

-- Notes that `n` more requests wait (or fewer), with their tokens and bytes. `lane` tells the quarantined apart.
local function charge(n, model, lane, tenant, tokens, bytes)
  local m, u = model .. '|', model .. '|' .. tenant .. '|'
  local added = lane == 'c' and {[m .. 'c'] = n} or lane == 'p' and {[m .. 'c'] = n, [m .. 'p'] = n} or {
    [m .. 'n'] = n, [m .. 'b'] = n * bytes, [m .. 't'] = n * tokens, [m .. 'q'] = lane == 'q' and n or nil,
    [u .. 'n'] = n, [u .. 'b'] = n * bytes, [u .. 't'] = n * tokens,
  }
  for field, value in pairs(added) do
    charges[field] = (charges[field] or 0) + value
  end
end

-- Writes down what was noted.
local function account()
  local fields, set, drop = {}, {}, {}
  for field in pairs(charges) do fields[#fields + 1] = field end
  if #fields == 0 then return end
  local values = call('HMGET', adm, unpack(fields))
  for i, field in ipairs(fields) do
    local value = tonumber(values[i] or 0) + charges[field]
    if value > 0 then
      set[#set + 1], set[#set + 2] = field, value
    elseif values[i] then
      drop[#drop + 1] = field
    end
  end
  if #set > 0 then call('HSET', adm, unpack(set)) end
  if #drop > 0 then call('HDEL', adm, unpack(drop)) end
end

-- Lets an execution wait in a lane; returns its entry, which belongs into its hash with state QUEUED.
local function enqueue(id, lane, model, tenant, tokens, bytes)
  charge(1, model, lane, tenant, tokens, bytes)
  call('XADD', root .. 'bell', 'MAXLEN', 1, '*', 'm', model)
  return call('XADD', lane_of(model, lane), '*', 'i', id, 'u', tenant, 't', tokens, 'b', bytes)
end

-- Milliseconds that the longest waiting request of a model has waited in its present lane.
local function oldest_wait(model)
  local oldest = now
  for _, lane in ipairs(REQUEST_LANES) do
    local stream = lane_of(model, lane)
    local from = '-'
    local groups = redis.pcall('XINFO', 'GROUPS', stream)
    if groups[1] then
      for i = 1, #groups[1], 2 do
        if groups[1][i] == 'last-delivered-id' then from = '(' .. groups[1][i + 1] end
      end
    end
    local entry = call('XRANGE', stream, from, '+', 'COUNT', 1)[1]
    if entry then oldest = math.min(oldest, tonumber(string.match(entry[1], '^%d+'))) end
  end
  return now - oldest
end

-- ---------------------------------------------------------------- an execution's end

-- Writes down that an execution has ended; says how long it is remembered.
local function retain(id, state, n_ev, journaled)
  local ms = journaled and RETAIN_MS or RETAIN_UNJOURNALED_MS
  call('HSET', execution(id), 'state', state, 'n_ev', n_ev)
  call('PEXPIRE', execution(id), ms)
  call('PEXPIRE', root .. 'e:' .. id, ms)
  if journaled then call('PEXPIRE', root .. 'j:' .. id, ms) end
end

-- Ends an execution that does not run, with `event` (an Event behind its length) as its last one.
local function finish(id, state, event)
  local v = call('HMGET', execution(id), 'n_ev', 'gws', 'journaled')
  local first = tonumber(v[1] or 0)
  if v[3] == '1' then call('APPEND', root .. 'j:' .. id, event) end
  retain(id, state, first + 1, v[3] == '1')
  post_all(v[2], frame_item(id, first, 1, event, true))
end

-- What a running execution has published, and whether this start has made progress; nothing if the life does not run it.
local function progress(owner, id)
  local value = call('HGET', root .. 'own:' .. owner, id)
  if not value then return nil end
  return tonumber(value) or tonumber(string.sub(value, 2)), string.byte(value) ~= 61
end

-- Has emit look at an execution of a life.
local function attend(owner, id) call('SADD', root .. 'att:' .. owner, id) end

-- Ends a queued execution with `event`; has the owner of a running one end it. Returns the state it was found in, or nil.
local function stop(id, state, event)
  local r = execution(id)
  local v = call('HMGET', r, 'state', 'model', 'at', 'entry', 'tenant', 'tokens', 'bytes', 'cancel', 'owner')
  if v[1] == 'QUEUED' then
    call('XDEL', lane_of(v[2], v[3]), v[4])
    charge(-1, v[2], v[3], v[5], v[6], v[7])
    account()
    finish(id, state, event)
  elseif v[1] == 'RUNNING' and not v[8] then
    call('HSET', r, 'cancel', state)
    attend(v[9], id)
  end
  return v[1]
end

-- Whether somebody listens, or may come back. A part of a job needs nobody.
local function listened(id, gws, detach, orphan)
  if detach == 'j' then return true end
  for gw in string.gmatch(gws, '[^,]+') do
    if gateway(gw) then
      if orphan then call('HDEL', execution(id), 'orphan') end
      return true
    end
  end
  if detach ~= '1' and gws == '' then return false end -- everyone left
  if not orphan then call('HSET', execution(id), 'orphan', now) end
  return not orphan or now - orphan <= (detach == '1' and DETACH_MS or ABSENT_MS)
end
