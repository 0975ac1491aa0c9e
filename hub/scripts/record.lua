-- Takes what a spoke says about its agents into the read model: the results of a REPLY, or the events of an EVENT with
-- its replay mark, all in one step. Safe to run twice.
--
-- ARGV     now (ms), tenant, spoke, length of the event stream, replay mark ('' for none), its life (ms), count, and for
--          each item: command id ('' for an event), agent id, outcome (delivered, refused, retry, event), error (JSON),
--          not before (ms), seq (0 when no AgentStatus came), status, task id, agent type, AgentStatus (JSON),
--          whether it has a result (1 or 0), reason
--
-- Rules: a higher seq wins; at an equal seq a result is never replaced by none; a terminal state is final; an agent of
-- another tenant is not touched (attack rows 33, 38); an unknown one is taken in (fault 31).
-- Returns nothing when the mark was there already, else for each item: ok or foreign.
local now, tenant, spoke, maxlen, count = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[7])
local TERMINAL = {completed = true, failed = true, killed = true}

if ARGV[5] ~= '' and not redis.call('SET', p .. 'replay:' .. ARGV[5], '1', 'NX', 'PX', ARGV[6]) then
  return false
end

local function take_in(id, task, kind)
  redis.call('HSET', p .. 'agent:' .. id, 'spoke', spoke, 'tenant', tenant, 'task', task, 'type', kind, 'created', now,
    'status', 'pending', 'seq', 0, 'delivery', 'delivered', 'attempts', 0, 'error', '')
  for _, name in ipairs({'agents', 'spoke:' .. spoke, 'task:' .. task}) do
    redis.call('ZADD', p .. name, 0, id)
  end
end

local function learn(id, seq, status, json, has_result, reason)
  local agent = p .. 'agent:' .. id
  local known = redis.call('HMGET', agent, 'seq', 'status', 'has_result', 'delivery')
  local before = tonumber(known[1])
  local newer = seq > before and not TERMINAL[known[2]]
  local same = seq == before and status == known[2] and (has_result == '1' or known[3] ~= '1')
  if newer or same then
    redis.call('HSET', agent, 'seq', seq, 'status', status, 'agent', json, 'has_result', has_result)
    show(id, status)
  end
  if known[4] ~= 'delivered' then
    redis.call('HSET', agent, 'delivery', 'delivered', 'error', '')
    drop(id, tenant) -- the spawn's command id is the agent's id
  end
  if newer then
    emit(id, maxlen, reason)
  end
end

-- The fields of the agent that tell how its spawn, or its kill, was delivered.
local FIELDS = {spawn = {'delivery', 'error'}, kill = {'kill_state', 'kill_error'}}

local function settle(command, outcome, err, not_before)
  local known = redis.call('HMGET', p .. 'cmd:' .. command, 'kind', 'agent')
  local kind, id = known[1], known[2]
  if not kind then
    return -- settled before
  end
  local agent, fields = p .. 'agent:' .. id, FIELDS[kind]
  if kind == 'spawn' then
    redis.call('HINCRBY', agent, 'attempts', 1)
  end
  redis.call('HSET', agent, fields[2], err)
  if outcome == 'retry' then
    redis.call('HINCRBY', p .. 'cmd:' .. command, 'attempts', 1)
    redis.call('ZREM', p .. 'outbox:' .. tenant, command)
    redis.call('ZADD', p .. 'deferred:' .. tenant, not_before, command)
    return
  end
  redis.call('HSET', agent, fields[1], outcome)
  drop(command, tenant)
  if kind == 'spawn' and outcome == 'refused' then
    if redis.call('HGET', agent, 'seq') == '0' then
      show(id, 'refused')
    end
    emit(id, maxlen, cjson.decode(err).code)
  end
end

local results = {}
for i = 0, count - 1 do
  local command, id, outcome, err, not_before, seq, status, task, kind, json, has_result, reason =
    unpack(ARGV, 8 + i * 12, 19 + i * 12)
  local owner = redis.call('HGET', p .. 'agent:' .. id, 'tenant')
  if owner and owner ~= tenant then
    results[#results + 1] = 'foreign'
  else
    if not owner and seq ~= '0' then
      take_in(id, task, kind)
    end
    if command ~= '' then
      settle(command, outcome, err, not_before)
    end
    if seq ~= '0' then
      learn(id, tonumber(seq), status, json, has_result, reason)
    end
    results[#results + 1] = 'ok'
  end
end
redis.call('HSET', p .. 'peer:' .. tenant, 'contact', now, 'failures', 0, 'next', 0, 'error', '')
return results
