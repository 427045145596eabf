-- Results of a job, chunk by chunk or part by part. jid, order ('chunks' or 'parts'), place to begin at, most bytes
-- -> NOTFOUND | OK version, ended (1, else 0), places there will be, {JobResults, later or other parts' JobResults...}...
-- In the order of the chunks: what there is of each chunk, up to one that has not ended. In that of the parts: each part
-- with what later attempts have of its chunk. At least one where there is one, then no more than `most bytes`, and no
-- more than PLACES of them: parts that never ran have no bytes.
local PLACES = 1000
local jid, order, at, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local job = load_job(jid, 'version', 'chunks', 'next')
if not job then return {'NOTFOUND'} end
local ended, size, found = job.state ~= '', 0, {}
local chunks = tonumber(job.chunks)

local open = {}
if not ended then
  for _, part in ipairs(call('SMEMBERS', job_key(jid, ':live'))) do open[string.match(part, '^%d+%.(%d+)')] = true end
end

local function parts_of(chunk)
  local parts = {}
  for part in string.gmatch(call('HGET', job_key(jid, ':parts'), chunk) or '1.' .. chunk, '[^,]+') do
    parts[#parts + 1] = part
  end
  return parts
end

-- Whether all items of a chunk have ended, in this attempt.
local function closed(chunk)
  if ended then return true end
  if chunk >= tonumber(job.next) or open[tostring(chunk)] then return false end
  return call('HEXISTS', job_key(jid, ':todo'), chunk) == 0
end

local function give(parts)
  local results = call('HMGET', job_key(jid, ':out'), unpack(parts))
  for i = 1, #results do
    results[i] = results[i] or ''
    size = size + #results[i]
  end
  found[#found + 1] = results
end

local places
if order == 'chunks' then
  places = chunks
  while at < chunks and #found < PLACES and size < most and closed(at) do
    give(parts_of(at))
    at = at + 1
  end
else
  places = call('LLEN', job_key(jid, ':done'))
  while at < places and #found < PLACES and size < most do
    local part = call('LINDEX', job_key(jid, ':done'), at)
    local attempt, chunk = string.match(part, '^(%d+)%.(%d+)')
    local parts = {part}
    for _, other in ipairs(parts_of(chunk)) do
      if tonumber(string.match(other, '^%d+')) > tonumber(attempt) then parts[#parts + 1] = other end
    end
    give(parts)
    at = at + 1
  end
end
return {'OK', tonumber(job.version), ended and 1 or 0, places, unpack(found)}
