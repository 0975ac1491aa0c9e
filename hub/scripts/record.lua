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
local TENANT, SPOKE, TASK, SHOWN, SEQ, STATUS, HAS_RESULT, DELIVERY, ATTEMPTS, REASON, RESUME_ID, KILL_STATE, UNASKED =
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13

-- Agents by id: the values of FIELDS as they are after what was said so far, what is to be written (`changes`), and what
-- was shown of it before (`was_shown`, `was_reason`). Read and written once, however much is said of one.
local agents = {}

local function read(id)
  local agent = agents[id]
  if not agent then
    agent = redis.call('HMGET', p .. 'agent:' .. id, unpack(FIELDS))
    agent.id, agent.changes, agent.was_shown, agent.was_reason = id, {}, agent[SHOWN], agent[REASON] or ''
    agents[id] = agent
  end
  return agent
end

-- Fields that no later item asks for need no place in the agent. The last word about one is written.
local function set(agent, name, value)
  agent.changes[name] = value
end

local function give(agent, field, value)
  agent[field] = value
  set(agent, FIELDS[field], value)
end

local function tell(agent, reason)
  emit(maxlen, agent.id, agent[SPOKE], agent[TASK], agent[SHOWN], agent[SEQ], agent[DELIVERY], reason)
end

local taken = redis.call('ZCARD', p .. 'taken:' .. tenant)
local taken_bytes = tonumber(redis.call('HGET', p .. 'peer:' .. tenant, 'taken_bytes') or 0)

local function take_in(agent, task, kind)
  taken = taken + 1
  give(agent, UNASKED, 1)
  place(p .. 'taken:' .. tenant, agent.id, 0)
  give(agent, SPOKE, spoke)
  give(agent, TENANT, tenant)
  give(agent, TASK, task)
  give(agent, STATUS, 'pending')
  give(agent, SEQ, 0)
  give(agent, DELIVERY, 'delivered')
  give(agent, ATTEMPTS, 0)
  set(agent, 'type', kind)
  set(agent, 'created', now)
  set(agent, 'error', '')
  place(p .. 'agents', agent.id, 0)
  place(p .. 'spoke:' .. spoke, agent.id, 0)
  place(p .. 'task:' .. task, agent.id, 0)
end

-- Writes what was learned of an agent, and keeps the indexes of what is shown of it, and of why it ended, in step.
local function write(agent)
  local id, shown, reason = agent.id, agent[SHOWN], agent[REASON] or ''
  local fields = {}
  for name, value in pairs(agent.changes) do
    local n = #fields
    fields[n + 1], fields[n + 2] = name, value
  end
  if #fields > 0 then
    redis.call('HSET', p .. 'agent:' .. id, unpack(fields))
  end
  if shown then
    show(id, agent[SPOKE], agent[TENANT], agent.was_shown, shown, now)
  end
  if agent.ended_anew then
    place(p .. 'ended', id, now) -- also when it was shown as ended before, and came back in between
  end
  if reason ~= agent.was_reason then
    if agent.was_reason ~= '' then
      place(p .. 'reason:' .. agent.was_reason, id, false)
    end
    if reason ~= '' then
      place(p .. 'reason:' .. reason, id, 0)
    end
  end
end

-- The agent that this hub resumed is on its way again; what was asked of its former end is over.
local function come_back(agent)
  give(agent, RESUME_ID, '')
  if agent[KILL_STATE] ~= 'pending' then
    set(agent, 'kill_id', '')
    give(agent, KILL_STATE, '')
    set(agent, 'kill_error', '')
  end
end

local function learn(agent, outcome, seq, status, json, has_result, reason)
  local before = tonumber(agent[SEQ])
  local comes_back = TERMINAL[agent[STATUS]] and seq > before and (agent[RESUME_ID] or '') ~= ''
  local newer = seq > before and not TERMINAL[agent[STATUS]] or comes_back
  local loses = agent[HAS_RESULT] == '1' and has_result ~= '1'
  -- What is known already is not written again: most events repeat what the reply said. The answer to a question is,
  -- for a queued agent's place changes without a transition.
  local same = seq == before and status == agent[STATUS] and not loses
    and (outcome == 'answer' or has_result ~= agent[HAS_RESULT])
  if comes_back then
    come_back(agent)
  end
  if newer or same then
    if agent[UNASKED] then
      taken_bytes = taken_bytes + #json - (agent.bytes or redis.call('HSTRLEN', p .. 'agent:' .. agent.id, 'agent'))
      agent.bytes = #json
    end
    give(agent, SEQ, seq)
    give(agent, STATUS, status)
    give(agent, HAS_RESULT, has_result)
    give(agent, SHOWN, status)
    set(agent, 'agent', json)
    if (agent[REASON] or '') ~= reason then
      give(agent, REASON, reason)
    end
    if newer then
      agent.ended_anew = TERMINAL[status]
    end
  end
  if agent[DELIVERY] ~= 'delivered' then
    -- An event that overtook the reply to the first attempt; that reply finds the command settled.
    give(agent, DELIVERY, 'delivered')
    give(agent, ATTEMPTS, agent[ATTEMPTS] == '0' and 1 or agent[ATTEMPTS])
    set(agent, 'error', '')
    drop_spawn(agent.id, tenant)
  end
  if newer then
    tell(agent, reason)
  end
end

local function defer(key, command, not_before)
  redis.call('HINCRBY', key, 'put_off', 1)
  place(p .. 'outbox:' .. tenant, command, false)
  place(p .. 'deferred:' .. tenant, command, not_before)
  touched[tenant] = true
end

local function settle_spawn(agent, outcome, err, not_before)
  if agent[DELIVERY] ~= 'pending' then
    drop_spawn(agent.id, tenant) -- settled before
    return
  end
  give(agent, ATTEMPTS, tonumber(agent[ATTEMPTS]) + 1)
  set(agent, 'error', err)
  if outcome == 'retry' then
    defer(p .. 'agent:' .. agent.id, agent.id, not_before)
    return
  end
  give(agent, DELIVERY, outcome)
  drop_spawn(agent.id, tenant)
  if outcome == 'refused' then
    if tonumber(agent[SEQ]) == 0 then
      give(agent, SHOWN, 'refused')
    end
    tell(agent, cjson.decode(err).code)
  end
end

local function settle_kill(agent, command, outcome, err, not_before)
  local key = p .. 'cmd:' .. command
  if redis.call('EXISTS', key) == 0 then
    return -- settled before
  end
  set(agent, 'kill_error', err)
  if outcome == 'retry' then
    defer(key, command, not_before)
    return
  end
  give(agent, KILL_STATE, outcome)
  drop(command, tenant)
end

-- What became of a freeze or thaw; one that a later one made void is forgotten, unless it killed.
local function settle_latch(command, outcome, err, not_before, told, killed)
  local key = p .. 'cmd:' .. command
  if redis.call('EXISTS', key) == 0 then
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
    defer(key, command, not_before)
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
  if agent[TENANT] and not agent[UNASKED] then
    return false
  end
  local before = agent.bytes or agent[TENANT] and redis.call('HSTRLEN', p .. 'agent:' .. agent.id, 'agent') or 0
  return (not agent[TENANT] and taken >= taken_at_most) or taken_bytes + #json - before > taken_bytes_at_most
end

-- One item about an agent; returns what is answered.
local function take(agent, command, outcome, err, not_before, seq, status, task, kind, json, has_result, reason)
  if agent[TENANT] and agent[TENANT] ~= tenant then
    return 'foreign'
  end
  local tells = seq ~= '0'
  local surplus = tells and is_surplus(agent, json)
  if surplus then
    if not agent[TENANT] then
      return 'surplus'
    end
    tells = false -- what became of a command counts all the same
  end
  if tells and not agent[TENANT] then
    take_in(agent, task, kind)
  end
  if command == agent.id then
    settle_spawn(agent, outcome, err, not_before) -- a spawn's command id is the agent's id
  elseif command ~= '' then
    settle_kill(agent, command, outcome, err, not_before)
  end
  if tells then
    learn(agent, outcome, tonumber(seq), status, json, has_result, reason)
  end
  return surplus and 'surplus' or 'ok'
end

local results = {accepted}
for i = 0, count - 1 do
  local command, id, outcome, err, not_before, seq, status, task, kind, json, has_result, reason =
    unpack(ARGV, 14 + i * 12, 25 + i * 12)
  if id == '' then
    settle_latch(command, outcome, err, not_before, status, task)
    results[#results + 1] = 'ok'
  else
    results[#results + 1] =
      take(read(id), command, outcome, err, not_before, seq, status, task, kind, json, has_result, reason)
  end
end
for _, agent in pairs(agents) do
  write(agent)
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
