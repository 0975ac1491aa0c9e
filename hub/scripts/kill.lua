-- Takes kills into the outbox: at most one waits per agent, so kills need no limit and always find room.
-- Safe to run twice: a kill that waits is answered with its id.
--
-- ARGV     for each kill: agent id (each once), command id, command (JSON), traceparent ('' for none)
--
-- Returns for each {outcome, command id, what is shown}: queued, same, ended (nothing to kill) or not_found.
local function kill(id, command, json, trace)
  local agent = p .. 'agent:' .. id
  local known = redis.call('HMGET', agent, 'tenant', 'shown', 'kill_id', 'kill_state')
  local tenant, shown = known[1], known[2]
  if not tenant then
    return {'not_found', '', ''}
  end
  if shown == 'completed' or shown == 'failed' or shown == 'killed' or shown == 'refused' then
    return {'ended', '', shown}
  end
  if known[4] == 'pending' then
    return {'same', known[3], shown}
  end
  put(command, 'kill', id, tenant, json, trace)
  redis.call('HSET', agent, 'kill_id', command, 'kill_state', 'pending', 'kill_error', '')
  return {'queued', command, shown}
end

local results = {}
for i = 1, #ARGV, 4 do
  results[#results + 1] = kill(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
end
flush()
return results
