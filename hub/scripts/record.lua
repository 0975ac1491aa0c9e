-- Takes what a spoke says about its agents into the read model: the results of a REPLY, or the events of an EVENT with
-- its replay mark, all in one step. Safe to run twice.
--
-- ARGV     now (ms), tenant, spoke, length of the event stream, how many agents of a spoke are taken in unasked, how many
--          bytes of those are kept, how many of any one agent, replay mark ('' for none), its life (ms), envelopes a second, generation and counter of the store as the hub knows
--          it, count, and for each item: command id ('' for an event), agent id, outcome (delivered, refused, retry,
--          event, answer), error (JSON), not before (ms), seq (0 when no AgentStatus came), status, task id, agent type, AgentStatus (JSON),
--          whether it has a result (1 or 0), reason. The answer to a freeze or thaw has no agent id; what is so now
--          (frozen or thawed) is its status, how many agents it killed its task id
--
-- Rules: a higher seq wins; at an equal seq a result is never replaced by none; a terminal state is final unless this hub
-- asked for a resume; an agent of another tenant is not touched (attack rows 33, 38); an unknown one is taken in (fault
-- 31), so many of a spoke and so many bytes of them: it must not be able to fill this store, nor to push out what is kept
-- of other spokes' agents (row 64).
-- Returns what `accept` does when the envelope is not taken, else its number (0 without mark), and for each item: ok,
-- foreign or surplus.
local now, tenant, spoke, maxlen = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local taken_at_most, taken_bytes_at_most, bytes_at_most, count =
  tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[13])
local TERMINAL = {completed = true, failed = true, killed = true}

local is_reply = ARGV[8] == ''
local accepted = is_reply and 0 or accept(unpack(ARGV, 8, 12))
if type(accepted) ~= 'number' then
  return accepted
end

local FIELDS = {'tenant', 'spoke', 'task', 'shown', 'seq', 'status', 'has_result', 'delivery', 'attempts', 'reason',
                'resume_id', 'kill_state', 'unasked'}

-- An agent as it is before this item: its fields by name, and `changes` that are written in one go.
local function read(id)
  local values, agent = redis.call('HMGET', p .. 'agent:' .. id, unpack(FIELDS)), {id = id, changes = {}}
  for i, name in ipairs(FIELDS) do
    agent[name] = values[i] or nil
  end
  return agent
end

local function set(agent, ...)
  local values = {...}
  for i = 1, #values, 2 do
    agent[values[i]] = values[i + 1]
    agent.changes[#agent.changes + 1] = values[i]
    agent.changes[#agent.changes + 1] = values[i + 1]
  end
end

local function write(agent)
  if #agent.changes > 0 then
    redis.call('HSET', p .. 'agent:' .. agent.id, unpack(agent.changes))
  end
end

local function show_as(agent, shown)
  show(agent.id, agent.spoke, agent.tenant, agent.shown, shown, now)
  set(agent, 'shown', shown)
end

local function tell(agent, reason)
  emit(maxlen, agent.id, agent.spoke, agent.task, agent.shown, agent.seq, agent.delivery, reason)
end

local taken = redis.call('ZCARD', p .. 'taken:' .. tenant)
local taken_bytes = tonumber(redis.call('HGET', p .. 'peer:' .. tenant, 'taken_bytes') or 0)

local function take_in(agent, task, kind)
  taken = taken + 1
  set(agent, 'unasked', 1)
  place(p .. 'taken:' .. tenant, agent.id, 0)
  set(agent, 'spoke', spoke, 'tenant', tenant, 'task', task, 'type', kind, 'created', now, 'status', 'pending',
    'seq', 0, 'delivery', 'delivered', 'attempts', 0, 'error', '')
  for _, name in ipairs({'agents', 'spoke:' .. spoke, 'task:' .. task}) do
    place(p .. name, agent.id, 0)
  end
end

-- Keeps the index of why agents ended in step with what is shown.
local function give_reason(agent, reason)
  local before = agent.reason or ''
  if before == reason then
    return
  end
  if before ~= '' then
    place(p .. 'reason:' .. before, agent.id, false)
  end
  if reason ~= '' then
    place(p .. 'reason:' .. reason, agent.id, 0)
  end
  set(agent, 'reason', reason)
end

-- The agent that this hub resumed is on its way again; what was asked of its former end is over.
local function come_back(agent)
  set(agent, 'resume_id', '')
  if agent.kill_state ~= 'pending' then
    set(agent, 'kill_id', '', 'kill_state', '', 'kill_error', '')
  end
end

local function learn(agent, outcome, seq, status, json, has_result, reason)
  local before = tonumber(agent.seq)
  local comes_back = TERMINAL[agent.status] and seq > before and (agent.resume_id or '') ~= ''
  local newer = seq > before and not TERMINAL[agent.status] or comes_back
  local loses = agent.has_result == '1' and has_result ~= '1'
  -- What is known already is not written again: most events repeat what the reply said. The answer to a question is,
  -- for a queued agent's place changes without a transition.
  local same = seq == before and status == agent.status and not loses
    and (outcome == 'answer' or has_result ~= agent.has_result)
  if comes_back then
    come_back(agent)
  end
  if newer or same then
    if agent.unasked then
      taken_bytes = taken_bytes + #json - redis.call('HSTRLEN', p .. 'agent:' .. agent.id, 'agent')
    end
    set(agent, 'seq', seq, 'status', status, 'agent', json, 'has_result', has_result)
    show_as(agent, status)
    give_reason(agent, reason)
  end
  if agent.delivery ~= 'delivered' then
    -- An event that overtook the reply to the first attempt; that reply finds the command settled.
    local attempts = agent.attempts == '0' and 1 or agent.attempts
    set(agent, 'delivery', 'delivered', 'error', '', 'attempts', attempts)
    drop(agent.id, tenant) -- the spawn's command id is the agent's id
  end
  if newer then
    tell(agent, reason)
  end
end

-- The fields of the agent that tell how its spawn, or its kill, was delivered.
local TOLD_BY = {spawn = {'delivery', 'error'}, kill = {'kill_state', 'kill_error'}}

local function defer(command, not_before)
  redis.call('HINCRBY', p .. 'cmd:' .. command, 'attempts', 1)
  place(p .. 'outbox:' .. tenant, command, false)
  place(p .. 'deferred:' .. tenant, command, not_before)
  touched[tenant] = true
end

local function settle(agent, command, outcome, err, not_before)
  local kind = redis.call('HGET', p .. 'cmd:' .. command, 'kind')
  if not kind then
    return -- settled before
  end
  local fields = TOLD_BY[kind]
  if kind == 'spawn' then
    set(agent, 'attempts', tonumber(agent.attempts) + 1)
  end
  set(agent, fields[2], err)
  if outcome == 'retry' then
    defer(command, not_before)
    return
  end
  set(agent, fields[1], outcome)
  drop(command, tenant)
  if kind == 'spawn' and outcome == 'refused' then
    if agent.seq == '0' then
      show_as(agent, 'refused')
    end
    tell(agent, cjson.decode(err).code)
  end
end

-- What became of a freeze or thaw; one that a later one made void is forgotten, unless it killed.
local function settle_latch(command, outcome, err, not_before, told, killed)
  if redis.call('EXISTS', p .. 'cmd:' .. command) == 0 then
    return -- settled before, or void
  end
  local peer = p .. 'peer:' .. tenant
  local known = redis.call('HMGET', peer, 'latch_id', 'latch_kill_id')
  local is_latest = known[1] == command
  if told ~= '' then
    redis.call('HSET', peer, 'frozen', told == 'frozen' and 1 or 0)
  end
  if is_latest then
    redis.call('HSET', peer, 'latch_error', err, 'latch_killed', killed)
  end
  if outcome == 'retry' and is_latest then
    defer(command, not_before)
    return
  end
  drop(command, tenant)
  if known[2] == command then
    redis.call('HDEL', peer, 'latch_kill_id')
  end
  if is_latest then
    redis.call('HSET', peer, 'latch_state', outcome)
  end
  if told == 'thawed' then
    -- What the spoke put off because it was frozen goes now.
    for _, id in ipairs(redis.call('ZRANGE', p .. 'deferred:' .. tenant, 0, 999)) do
      place(p .. 'deferred:' .. tenant, id, 0)
    end
  end
end

-- Whether there is no room for what is told of an agent: an unknown one, or one that nobody asked for.
local function is_surplus(agent, json)
  if #json > bytes_at_most then
    return true
  end
  if agent.tenant and not agent.unasked then
    return false
  end
  local before = agent.tenant and redis.call('HSTRLEN', p .. 'agent:' .. agent.id, 'agent') or 0
  return (not agent.tenant and taken >= taken_at_most) or taken_bytes + #json - before > taken_bytes_at_most
end

local results = {accepted}
for i = 0, count - 1 do
  local command, id, outcome, err, not_before, seq, status, task, kind, json, has_result, reason =
    unpack(ARGV, 14 + i * 12, 25 + i * 12)
  local agent = read(id)
  if id == '' then
    settle_latch(command, outcome, err, not_before, status, task)
    results[#results + 1] = 'ok'
  elseif agent.tenant and agent.tenant ~= tenant then
    results[#results + 1] = 'foreign'
  elseif seq ~= '0' and not agent.tenant and is_surplus(agent, json) then
    results[#results + 1] = 'surplus'
  else
    local surplus = seq ~= '0' and is_surplus(agent, json)
    if surplus then
      seq = '0' -- what became of a command counts all the same
    end
    if not agent.tenant and seq ~= '0' then
      take_in(agent, task, kind)
    end
    if command ~= '' then
      settle(agent, command, outcome, err, not_before)
    end
    if seq ~= '0' then
      learn(agent, outcome, tonumber(seq), status, json, has_result, reason)
    end
    write(agent)
    results[#results + 1] = surplus and 'surplus' or 'ok'
  end
end
flush()
local peer = p .. 'peer:' .. tenant
redis.call('HSET', peer, 'contact', now, 'taken_bytes', taken_bytes)
if is_reply then
  redis.call('HSET', peer, 'tried', now, 'answered', now)
end
-- A spoke that we hear may still be one that we cannot reach: what failed is over when it answered, or nothing waits.
if is_reply or redis.call('SISMEMBER', p .. 'outboxes', tenant) == 0 then
  redis.call('HSET', peer, 'failures', 0, 'next', 0, 'error', '')
  redis.call('HDEL', peer, 'failing')
end
return results
