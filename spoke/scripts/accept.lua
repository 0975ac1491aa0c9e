-- Accept one admitted envelope: rate, replay, and the effect of all its commands, in one step.
--
-- ARGV: prefix, tenant, peer, jti, raw envelope, replay mark's life ms, rate per s (0: none), tenant's queued limit,
--   tenant's agents limit, spoke's queue limit, tombstone's life ms, retention ms, number of commands, then 9 for each:
--   'spawn'  id hash index task type priority timeout max_attempts
--   'status' agent -, -, ...
--   'kill'   agent kill-JSON cause, -, ...
--   'none'   a command that was refused before, or answered without the queue
-- Returns {'replayed'}, {'rate_limited'} or {'accepted', answer...}: {'new', position}, {'agent', fields, place},
--   {'error', code}, {'none'}.
-- Run twice it answers 'replayed' and changes nothing.

local tenant, peer, jti, raw = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local replay_ms, rate = tonumber(ARGV[6]), tonumber(ARGV[7])
local queued_limit, agents_limit, queue_limit = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local tomb_ms, retention_ms, commands = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local FIRST, STRIDE = 14, 9

if rate > 0 then
  local counter = P .. 'rate:' .. tenant
  local used = redis.call('INCR', counter)
  if used == 1 then redis.call('PEXPIRE', counter, 1000) end
  if used > rate then return { 'rate_limited' } end
end
-- By peer and not by tenant: an id that was revoked and joined again must not be able to replay its former envelopes.
if not redis.call('SET', P .. 'replay:' .. peer .. ':' .. jti, '1', 'NX', 'PX', replay_ms) then
  return { 'replayed' }
end

local now = int(now_ms())
local draining = redis.call('EXISTS', P .. 'draining') == 1
local created = 0

local function queued(load) return tonumber(redis.call('HGET', P .. load, 'queued') or 0) end

local function refusal(id)
  if redis.call('EXISTS', P .. 'tomb:' .. tenant .. ':' .. id) == 1 then return 'killed' end
  if draining then return 'draining' end
  if queued('load:' .. tenant) >= queued_limit then return 'quota_exceeded' end
  if queued('load') >= queue_limit then return 'queue_full' end
end

-- The index must not outlive the records: each new agent removes up to two of the oldest names that have none.
local function prune()
  for _, member in ipairs(redis.call('ZRANGE', P .. 'agents', 0, 1)) do
    local id, owner = member:match('^(%S+) (%S+)$')
    if redis.call('EXISTS', agent_key(owner, id)) == 0 then redis.call('ZREM', P .. 'agents', member) end
  end
end

local function create(id, hash, at)
  local fields = {
    'id', id, 'tenant', tenant, 'peer', peer, 'status', 'queued', 'seq', '1', 'attempt', '0', 'hash', hash,
    'env', jti, 'index', ARGV[at + 3], 'task', ARGV[at + 4], 'type', ARGV[at + 5], 'priority', ARGV[at + 6],
    'timeout', ARGV[at + 7], 'max_attempts', ARGV[at + 8], 'queued_at', now,
  }
  redis.call('HSET', agent_key(tenant, id), unpack(fields))
  prune()
  redis.call('ZADD', P .. 'agents', 0, id .. ' ' .. tenant)
  enqueue(tenant, id, tonumber(ARGV[at + 6]))
  announce(tenant, fields)
  created = created + 1
  return { 'new', now, place(tenant, id, agents_limit) }
end

local function spawn(at)
  local id, hash = ARGV[at + 1], ARGV[at + 2]
  local known = redis.call('HGET', agent_key(tenant, id), 'hash')
  if known == hash then return describe(tenant, id, agents_limit) end
  if known then return { 'error', 'conflict' } end
  local refused = refusal(id)
  if refused then return { 'error', refused } end
  return create(id, hash, at)
end

local function kill(at)
  local id = ARGV[at + 1]
  request_kill(tenant, id, ARGV[at + 2], ARGV[at + 3], retention_ms)
  local answer = describe(tenant, id, agents_limit)
  if answer[1] == 'error' then redis.call('SET', P .. 'tomb:' .. tenant .. ':' .. id, '1', 'PX', tomb_ms) end
  return answer
end

local answers = { 'accepted' }
for number = 1, commands do
  local at = FIRST + (number - 1) * STRIDE
  local kind = ARGV[at]
  if kind == 'spawn' then answers[number + 1] = spawn(at)
  elseif kind == 'status' then answers[number + 1] = describe(tenant, ARGV[at + 1], agents_limit)
  elseif kind == 'kill' then answers[number + 1] = kill(at)
  else answers[number + 1] = { 'none' } end
end
if created > 0 then
  local envelope = P .. 'env:' .. tenant .. ':' .. jti
  redis.call('HSET', envelope, 'raw', raw)
  -- A kill further on in the same envelope may have set it to expire already.
  if redis.call('HINCRBY', envelope, 'live', created) > 0 then redis.call('PERSIST', envelope) end
  redis.call('PUBLISH', P .. 'wake', '')
end
return answers
