-- Accept one admitted envelope: rate, replay, and the effect of all its commands, in one step.
--
-- ARGV: prefix, tenant, peer, jti, raw envelope, replay mark's life ms, rate per s (0: none), tenant's queued limit,
--   tenant's agents limit, spoke's queue limit, tombstone's life ms, retention ms, generation and counter of the store as the
--   node knows it, commands per s, bytes that the tenant may keep (0: any), number of commands, then 9 for each:
--   'spawn'  id hash index task type priority timeout max_attempts
--   'status' agent -, -, ...
--   'kill'   agent kill-JSON cause, -, ...
--   'freeze' id kill-JSON ('' to kill none) cause how many waiting agents at most, -, ...
--   'thaw'   id, -, ...
--   'resume' id hash index agent, -, ...
--   'resumed' id hash - agent: a resume that was refused before, unless it was accepted once
--   'known'  id hash: a spawn that was refused before, unless it was accepted once
--   'none'   a command that was refused before, or answered without the queue
-- Returns {'lost'} (not the store that the node knows), {'replayed'}, {'rate_limited', rule}, {'accepted', counter, answer...}:
--   {'new', position}, {'agent', fields, place}, {'error', code, rule where the code has several},
--   {'frozen', waiting agents ended, held agents asked to end}, {'thawed'} (what is so now), {'none'}.
-- Run twice it answers 'replayed' and changes nothing.

local tenant, peer, jti, raw = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local replay_ms, rate = tonumber(ARGV[6]), tonumber(ARGV[7])
local queued_limit, agents_limit, queue_limit = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local tomb_ms, retention_ms = tonumber(ARGV[11]), tonumber(ARGV[12])
local generation, seen = ARGV[13], tonumber(ARGV[14])
local command_rate, size_limit, commands = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17])
local FIRST, STRIDE = 18, 9

-- Emptied, another store, or an old copy: the marks of what was accepted are not in it (common/store_mark.py).
if (redis.call('GET', P .. 'generation') or '') ~= generation
  or tonumber(redis.call('GET', P .. 'accepted') or 0) < seen then return { 'lost' } end

if rate > 0 then
  local counter, at = P .. 'rate:' .. tenant, now_ms()
  local since = tonumber(redis.call('HGET', counter, 'since') or 0)
  -- When the clock was set back the expiry is an hour away: the count must not last as long.
  if at < since or at >= since + 1000 then
    redis.call('HSET', counter, 'since', int(at), 'used', 0, 'commands', 0)
    redis.call('PEXPIRE', counter, 1000)
  end
  if redis.call('HINCRBY', counter, 'used', 1) > rate then return { 'rate_limited', 'rate_per_s' } end
  -- The envelope that goes past it is taken, or one with more commands than that could never be.
  if redis.call('HINCRBY', counter, 'commands', commands) - commands >= command_rate then
    return { 'rate_limited', 'commands_per_s' }
  end
end
-- By peer and not by tenant: an id that was revoked and joined again must not be able to replay its former envelopes.
if not redis.call('SET', P .. 'replay:' .. peer .. ':' .. jti, '1', 'NX', 'PX', replay_ms) then
  return { 'replayed' }
end

local now = int(now_ms())
local draining = redis.call('EXISTS', P .. 'draining') == 1
local frozen = redis.call('EXISTS', P .. 'frozen:' .. tenant) == 1
local PRUNED_AT_ONCE, FORGOTTEN_AT_ONCE = 16, 2500
local created = {}     -- {id, priority, answer} of all spawns that were accepted
local reopened = 0     -- how many agents were resumed
local unstored = #raw  -- the bytes of the envelope, until an agent is charged with them
local uncharged = 0    -- the bytes of those in `unqueued`
local unqueued = {}    -- those of them that are not in the queue yet: all at once costs far less than one by one
local queued_here, queued_all, size
local horizon = redis.call('GET', P .. 'horizon:' .. tenant) or ''

local function read_load()
  queued_here = tonumber(redis.call('HGET', P .. 'load:' .. tenant, 'queued') or 0)
  queued_all = tonumber(redis.call('HGET', P .. 'load', 'queued') or 0)
  size = tonumber(redis.call('GET', P .. 'size:' .. tenant) or 0)
    + SIZE.tombstone * redis.call('ZCARD', P .. 'tombs:' .. tenant)
end

-- Queue what was accepted so far and tell each its position: those of one priority stand in a row.
local function flush()
  if #unqueued == 0 then return end
  enqueue(tenant, unqueued)
  charge(tenant, uncharged)
  uncharged = 0
  local reason, following = waiting_for(tenant, agents_limit), {}
  for _, agent in ipairs(unqueued) do
    local id, priority, answer = agent[1], agent[2], agent[3]
    local rank = following[priority] or redis.call('ZRANK', P .. 'queue:' .. tenant, id)
    following[priority] = rank + 1
    answer[3] = { rank + 1, reason }
  end
  unqueued = {}
end

local spawns = {}    -- the ids of agents that are asked for
local needed = {}    -- what of that which ended is to be resumed, by the beginning of its entry in `ended:T`
local wanted = 0     -- the bytes that what is asked for takes at least

local function survey()
  for number = 1, commands do
    local at = FIRST + (number - 1) * STRIDE
    if ARGV[at] == 'spawn' then
      spawns[#spawns + 1] = ARGV[at + 1]
      wanted = wanted + SIZE.agent + SIZE.event
    elseif ARGV[at] == 'resume' then
      needed['a ' .. ARGV[at + 4]] = true
      needed['e ' .. (redis.call('HGET', agent_key(tenant, ARGV[at + 4]), 'env') or '')] = true
      wanted = wanted + SIZE.event
    end
  end
end
survey()

local function tombstones()
  local tombs, found = P .. 'tombs:' .. tenant, {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', tombs, '-inf', now, 'LIMIT', 0, FORGOTTEN_AT_ONCE)) do
    redis.call('ZREM', tombs, id)
  end
  if #spawns > 0 then
    for number, ends in ipairs(redis.call('ZMSCORE', tombs, unpack(spawns))) do
      found[spawns[number]] = tonumber(ends or 0) > tonumber(now)
    end
  end
  return found
end
local dead = tombstones()

-- Whether there is room for so many bytes more among what is kept for this tenant.
local function fits(bytes) return size_limit == 0 or size + bytes <= size_limit end

-- Make room for what is asked for: of what is kept of ended agents, those that ended first are forgotten first.
local function make_room()
  if wanted == 0 or fits(#raw + wanted) then return end
  for _, entry in ipairs(redis.call('ZRANGE', P .. 'ended:' .. tenant, 0, FORGOTTEN_AT_ONCE - 1)) do
    if fits(#raw + wanted) then break end
    if not needed[entry:match('^%S %S+')] then
      local bytes, id = forget(tenant, entry)
      size = size - bytes
      if id and id > horizon then horizon = id end
    end
  end
  if horizon ~= '' then redis.call('SET', P .. 'horizon:' .. tenant, horizon, 'PX', retention_ms) end
end

local function overload(bytes)
  if frozen then return 'frozen' end
  if draining then return 'draining' end
  if queued_here >= queued_limit then return 'quota_exceeded', 'queued' end
  if not fits(bytes) then return 'quota_exceeded', 'store_mib' end
  if queued_all >= queue_limit then return 'queue_full' end
end

local function refusal(id, bytes)
  if dead[id] then return 'killed' end
  -- It may be one that ran and was forgotten: it must not run again.
  if id <= horizon then return 'stale' end
  return overload(bytes)
end

-- The index must not outlive the records: new agents remove some of the oldest names that have none.
local function prune()
  local oldest = redis.call('ZRANGE', P .. 'agents', 0, math.min(2 * #created, PRUNED_AT_ONCE) - 1)
  for _, member in ipairs(oldest) do drop_name(member) end
end

local function fields_of(id, hash, at)
  return {
    'id', id, 'tenant', tenant, 'peer', peer, 'status', 'queued', 'seq', '1', 'attempt', '0', 'hash', hash,
    'env', jti, 'index', ARGV[at + 3], 'task', ARGV[at + 4], 'type', ARGV[at + 5], 'priority', ARGV[at + 6],
    'timeout', ARGV[at + 7], 'max_attempts', ARGV[at + 8], 'queued_at', now,
  }
end

local function create(id, fields, at)
  redis.call('HSET', agent_key(tenant, id), unpack(fields))
  uncharged = uncharged + SIZE.agent + unstored + keep_event(tenant, fields)
  unstored = 0
  local answer = { 'new', now, {} }
  local agent = { id, tonumber(ARGV[at + 6]), answer }
  created[#created + 1], unqueued[#unqueued + 1] = agent, agent
  queued_here, queued_all = queued_here + 1, queued_all + 1
  return answer
end

local function spawn(at)
  local id, hash = ARGV[at + 1], ARGV[at + 2]
  local known = redis.call('HGET', agent_key(tenant, id), 'hash')
  if known == hash then
    flush()
    return describe(tenant, id, agents_limit)
  end
  if known then return { 'error', 'conflict' } end
  local fields = fields_of(id, hash, at)
  local bytes = SIZE.agent + SIZE.event + weigh(fields) + unstored
  local refused, rule = refusal(id, bytes)
  if refused then return { 'error', refused, rule } end
  size = size + bytes
  return create(id, fields, at)
end

-- The same command stays the same agent, also when it would not be accepted any more.
local function known(at)
  if redis.call('HGET', agent_key(tenant, ARGV[at + 1]), 'hash') ~= ARGV[at + 2] then return { 'none' } end
  flush()
  return describe(tenant, ARGV[at + 1], agents_limit)
end

local MOST_RESUMES = 50

-- Why an agent cannot be resumed, whoever asks and whatever else is here; nil when it can.
local function unfit(key, id)
  local following = FOLLOWS[redis.call('HGET', key, 'status') or '']
  if not following or next(following) then return 'running' end -- of a stranger's record nobody knows
  if redis.call('HEXISTS', key, 'requeued_as') == 1 then return 'requeued' end
  if stored_envelope(tenant, id) == '' then return 'forgotten' end
  local resumed = 0
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if field:sub(1, 7) == 'resume:' then resumed = resumed + 1 end
  end
  if resumed >= MOST_RESUMES then return 'often' end
end

local function resumed(at)
  local hash = redis.call('HGET', agent_key(tenant, ARGV[at + 4]), 'resume:' .. ARGV[at + 1])
  if hash ~= ARGV[at + 2] then return { 'none' } end
  flush()
  return describe(tenant, ARGV[at + 4], agents_limit)
end

local function resume(at)
  local command, hash, id = ARGV[at + 1], ARGV[at + 2], ARGV[at + 4]
  local key = agent_key(tenant, id)
  flush()
  if redis.call('EXISTS', key) == 0 then return { 'error', 'not_found' } end
  local known = redis.call('HGET', key, 'resume:' .. command)
  if known == hash then return describe(tenant, id, agents_limit) end
  if known then return { 'error', 'conflict', 'resume' } end
  local why = unfit(key, id)
  if why then return { 'error', 'not_allowed', why } end
  -- What its record was charged with in the end pays for its fields in the event.
  local refused, rule = overload(SIZE.event + unstored)
  if refused then return { 'error', refused, rule } end
  reopen(tenant, id, {
    'resume:' .. command, hash, 'resume_env', jti, 'resume_index', ARGV[at + 3], 'resumed_at', now,
  })
  charge(tenant, unstored)
  unstored, reopened = 0, reopened + 1
  read_load()
  return describe(tenant, id, agents_limit)
end

local function status(at)
  flush()
  return describe(tenant, ARGV[at + 1], agents_limit)
end

local function kill(at)
  local id = ARGV[at + 1]
  flush()
  request_kill(tenant, id, ARGV[at + 2], ARGV[at + 3], retention_ms)
  read_load()
  local answer = describe(tenant, id, agents_limit)
  if answer[1] ~= 'error' then return answer end
  if not fits(SIZE.tombstone) then return { 'error', 'quota_exceeded', 'store_mib' } end
  local tombs = P .. 'tombs:' .. tenant
  size = size + SIZE.tombstone * redis.call('ZADD', tombs, int(now_ms() + tomb_ms), id)
  redis.call('PEXPIRE', tombs, tomb_ms)
  dead[id] = true
  return answer
end

-- An envelope may be held up and come after the next one: the word that was said last is what counts.
-- A clock that is ahead must not keep a later word out: what is said in the future is said now.
local function is_late(id)
  local said, latched = id:sub(1, 13), P .. 'latched:' .. tenant
  local hex = string.format('%012x', now_ms())
  local present = hex:sub(1, 8) .. '-' .. hex:sub(9)
  if said > present then said = present end
  if said < (redis.call('GET', latched) or '') then return true end
  redis.call('SET', latched, said, 'PX', replay_ms)
end

local function latch() return frozen and { 'frozen', 0, 0 } or { 'thawed' } end

local function freeze(at)
  if is_late(ARGV[at + 1]) then return latch() end
  local kill, ended, asked = ARGV[at + 2], 0, 0
  redis.call('SET', P .. 'frozen:' .. tenant, now)
  frozen = true
  flush()
  if kill ~= '' then
    ended, asked = kill_all(tenant, kill, ARGV[at + 3], retention_ms, tonumber(ARGV[at + 4]))
    read_load()
  end
  return { 'frozen', ended, asked }
end

local function thaw(at)
  if is_late(ARGV[at + 1]) then return latch() end
  redis.call('DEL', P .. 'frozen:' .. tenant)
  frozen = false
  redis.call('PUBLISH', P .. 'wake', '')
  return latch()
end

local function none() return { 'none' } end

-- The envelope and the index once for all that were accepted.
local function keep()
  local envelope, names = envelope_key(tenant, jti), {}
  for _, agent in ipairs(created) do
    names[#names + 1] = 0
    names[#names + 1] = agent[1] .. ' ' .. tenant
  end
  prune()
  if #names > 0 then redis.call('ZADD', P .. 'agents', unpack(names)) end
  redis.call('HSET', envelope, 'raw', raw)
  -- A kill further on in the same envelope may have set it to expire already.
  if redis.call('HINCRBY', envelope, 'live', #created + reopened) > 0 then
    redis.call('PERSIST', envelope)
  else
    retire_envelope(tenant, jti, retention_ms)
  end
  -- No word of `changes`: the REPLY tells the same, so these events may wait for the next one, or for the poll.
  redis.call('PUBLISH', P .. 'wake', '')
end

local STEPS = {
  spawn = spawn, known = known, resume = resume, resumed = resumed, status = status, kill = kill, freeze = freeze,
  thaw = thaw, none = none,
}
local answers = { 'accepted', redis.call('INCR', P .. 'accepted') }
read_load()
make_room()
for number = 1, commands do
  local at = FIRST + (number - 1) * STRIDE
  answers[number + 2] = STEPS[ARGV[at]](at)
end
flush()
if #created + reopened > 0 then keep() end
return answers
