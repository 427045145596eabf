-- Takes the results of parts that a life runs, in any number of parts.
-- life, then for each part: id, end ('' it goes on), JobResults, succeeded, failures, prompt, completion, done
--   end: DONE, or CANCELLED where not all of its items have a result
--   JobResults: all results of the part so far, in the order of their items, those included that were saved before
--   done: the offsets that have one, comma-separated; failures: those of them that failed, as in job:<jid>:failed
-- -> FENCED | OK now lost...   ids that this life does not run (any more, where the reply of an earlier call was lost)
local life, lost = ARGV[1], {}
if not call('ZSCORE', ws, life) then return {'FENCED'} end
for i = 2, #ARGV, 8 do
  local id, ends, bytes = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local owned = progress(life, id)
  local jid = owned and call('HGET', execution(id), 'job') or ''
  local job = owned and load_job(jid)
  if not job then
    lost[#lost + 1] = id
    if owned then close_part(id, '', 0, '', 0, 0, '') end -- the job is forgotten
  elseif ends ~= '' then
    close_part(id, bytes, tonumber(ARGV[i + 3]), ARGV[i + 4], tonumber(ARGV[i + 5]), tonumber(ARGV[i + 6]), ARGV[i + 7])
  else
    call('SET', root .. 'j:' .. id, bytes, 'PXAT', job.expires + DAY_MS)
    call('HSET', execution(id), 'tally', table.concat(ARGV, '\n', i + 3, i + 7))
    local n_done = select(2, string.gsub(ARGV[i + 7], '%d+', ''))
    call('HSET', root .. 'own:' .. life, id, n_done)
    changed(jid)
  end
end
account()
return {'OK', now, unpack(lost)}
