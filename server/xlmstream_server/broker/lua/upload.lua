-- Commits items of a job, cut into chunks.
-- jid, index of the first item, most items, bytes, tokens of a chunk, most bytes of the tenant,
-- then for each chunk: items, tokens, JobItems
-- -> NOTFOUND | OK committed | GAP committed | TRIM committed | STATE | QUOTA used
-- Chunks that are committed already are skipped; TRIM: one is committed in part, send what is left of it. What precedes a
-- chunk that is refused is committed.
local jid, first = ARGV[1], tonumber(ARGV[2])
local most_items, most_bytes, most_tokens, quota = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local job = load_job(jid, 'tenant', 'items', 'bytes', 'chunks', 'next', 'sealed', 'ending', 'last_items', 'last_bytes',
  'last_tokens')
if not job then return {'NOTFOUND'} end
local items, size, chunks = tonumber(job.items), tonumber(job.bytes), tonumber(job.chunks)
local last_items, last_bytes = tonumber(job.last_items or 0), tonumber(job.last_bytes or 0)
local last_tokens, answer = tonumber(job.last_tokens or 0), 'OK'

-- Whether the last chunk has room for these and has not begun.
local function fits(n, tokens, bytes)
  return chunks - 1 >= tonumber(job.next) and last_items + n <= most_items and last_bytes + #bytes <= most_bytes
    and last_tokens + tokens <= most_tokens
end

for i = 7, #ARGV, 3 do
  local n, tokens, bytes = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), ARGV[i + 2]
  if first > items then
    answer = 'GAP'
  elseif first + n <= items then
    answer = 'OK'
  elseif first < items then
    answer = 'TRIM'
  elseif job.sealed or job.ending or job.state ~= '' then
    answer = 'STATE'
  elseif tonumber(call('HGET', root .. 'use', 't' .. job.tenant) or 0) + #bytes > quota then
    answer = 'QUOTA'
  else
    if fits(n, tokens, bytes) then
      set_input(jid, chunks - 1, get_input(jid, chunks - 1) .. bytes)
      last_items, last_bytes, last_tokens = last_items + n, last_bytes + #bytes, last_tokens + tokens
    else
      set_input(jid, chunks, bytes)
      call('RPUSH', job_key(jid, ':at'), first)
      chunks, last_items, last_bytes, last_tokens = chunks + 1, n, #bytes, tokens
    end
    items, size = first + n, size + #bytes
    use(jid, job.tenant, #bytes)
  end
  if answer ~= 'OK' then break end
  first = first + n
end

if items > tonumber(job.items) then
  call('HSET', job_key(jid), 'items', items, 'bytes', size, 'chunks', chunks, 'last_items', last_items,
    'last_bytes', last_bytes, 'last_tokens', last_tokens)
  touch(jid, job.expires)
  join_turns(jid)
  changed(jid)
end
if answer == 'QUOTA' then return {'QUOTA', tonumber(call('HGET', root .. 'use', 't' .. job.tenant) or 0)} end
return {answer, items}
