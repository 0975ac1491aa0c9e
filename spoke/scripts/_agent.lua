-- What the scripts of the spoke's queue share; it is put before each of them.
--
-- Keyspace. P is the prefix `hs:{INSTANCE}:` (one hash tag: everything lies in one slot), T a tenant, A an agent id.
--   P agent:T:A    hash    the record of an agent; fields below
--   P agents       zset    "A T" at score 0: all agents in the order of their ids, which is that of time
--   P queue:L      zset    A by priority * 2^43 + arrival: first priority, then first come. A lane L is T, or `T@M` for
--                          what goes on at the machine M, `T@` for what goes on at the node's own and a machine met in T
--   P waiting      zset    L by the tick of its last turn: lanes with something in them
--   P backoff      zset    "T A" by due time, ms: to be queued again then
--   P leases       zset    "T A" by deadline, ms on this server's clock, put off by the worker that holds it
--   P load:T       hash    queued, active: counts of one tenant; P load the same for the spoke
--   P env:T:JTI    hash    raw: the signed envelope as it came; live: its agents that have not ended
--   P replay:I:JTI string  the envelope of instance I was accepted; expires after its window
--   P tombs:T      zset    A by the time until which its kill that came before its spawn counts, ms
--   P rate:T       hash    since (ms), used, commands: envelopes and their commands in the second that began then
--   P size:T       bytes of the agents, envelopes and events kept for T: their text, and for each what `SIZE` says
--   P ended:T      zset    "a A SIZE", "e JTI SIZE" by the time they expire, ms: the ended agents of T and the envelopes
--                          that asked for nothing but those, to be forgotten before their time where T keeps too much
--   P horizon:T    string  the greatest id that was forgotten before its time: up to it an unknown id may be one that ran
--   P events:T     stream  records at each transition, kept until the peer has acknowledged them
--   P paused, P draining   flags
--   P frozen:T     flag: this tenant's spawns are refused, what it has queued waits
--   P latched:T    string  the time in the id of the freeze or thaw that came last; expires as a replay mark does
--   P arrivals, P ticks, P fence   counters
--   P generation, P accepted   which store this is, and how many envelopes it accepted (common/store_mark.py)
--   P wake, P kills, P changes     pub/sub: something to claim; "T A" is to be killed; T has events
--
-- Record: id tenant peer task type status seq attempt priority timeout max_attempts hash env index queued_at
--   started_at finished_at reason exit_code signal result receipt detail ended_by origin (the agent whose work it does
--   again) requeued_as (the agent that does its work again); of one that was resumed: resume:ID (hash of what each resume
--   asked for), and of the last one resume_env resume_index (where it lies), resumed_at, resumed_from (the attempt then);
--   machine (the one that claimed it last, if it was another than the node's own); and while leased: worker token kill
--   launched. A worker of another machine is named `@M/...` (docs/adr/0013-workers-on-other-machines.md).
--
-- Every change of state goes through `transition` or `reopen`: state, seq and event in one step (table:
-- common/agent_state.py).

local P = ARGV[1]

local FOLLOWS = {
  queued = { spawning = true, failed = true, killed = true },
  spawning = { running = true, queued = true, failed = true, killed = true },
  running = { queued = true, completed = true, failed = true, killed = true },
  completed = {}, failed = {}, killed = {},
}
local QUEUE_TURN = 8796093022208 -- 2^43 arrivals fit below the priority in a double

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A double prints as 1.7e+12; a millisecond must stay exact.
local function int(number) return string.format('%.0f', number) end

local function agent_key(tenant, id) return P .. 'agent:' .. tenant .. ':' .. id end

-- What Valkey takes for each beside its text, rounded up.
local SIZE = { agent = 3072, event = 256, tombstone = 128 }

local function charge(tenant, bytes)
  if bytes ~= 0 then redis.call('INCRBY', P .. 'size:' .. tenant, bytes) end
end

local function weigh(fields)
  local bytes = 0
  for _, text in ipairs(fields) do bytes = bytes + #text end
  return bytes
end

-- Keep a transition for the peer; returns the bytes with which the tenant is to be charged for it. Whoever calls it
-- publishes `changes` once all are kept, unless a REPLY tells them.
local function keep_event(tenant, fields)
  if tenant == 'local' then return 0 end
  redis.call('XADD', P .. 'events:' .. tenant, '*', unpack(fields))
  return SIZE.event + weigh(fields)
end

local function note_event(tenant, fields) charge(tenant, keep_event(tenant, fields)) end

local function count(tenant, field, by)
  redis.call('HINCRBY', P .. 'load:' .. tenant, field, by)
  redis.call('HINCRBY', P .. 'load', field, by)
end

-- Take an agent to `status`, with further fields set; false when the table does not allow it.
local function transition(tenant, id, status, fields)
  local key = agent_key(tenant, id)
  local before = redis.call('HGET', key, 'status')
  if not before or not FOLLOWS[before][status] then return false end
  redis.call('HSET', key, 'status', status, unpack(fields))
  redis.call('HINCRBY', key, 'seq', 1)
  note_event(tenant, redis.call('HGETALL', key))
  redis.call('PUBLISH', P .. 'changes', tenant)
  return true
end

-- The machine of a worker, '' for the node's own.
local function machine_of(worker) return (worker or ''):match('^@([^/]*)/') or '' end

-- The machine that an agent goes on at, since its work lies there; nil while it was started nowhere.
local function bound_to(tenant, id)
  local found = redis.call('HMGET', agent_key(tenant, id), 'attempt', 'machine')
  if tonumber(found[1] or 0) == 0 then return nil end
  return found[2] or ''
end

-- The lane in which an agent of the node's own, or of none, waits is that of its tenant.
local function lane_of(tenant, id)
  local machine = bound_to(tenant, id) or ''
  return machine == '' and tenant or tenant .. '@' .. machine
end

local function tenant_of(lane) return lane:match('^[^@]*') end

-- Put agents into a lane of their tenant's queue in the order given; each is {id, priority}, at most 1000.
local function enqueue(tenant, agents, lane)
  lane = lane or tenant
  local arrival = redis.call('INCRBY', P .. 'arrivals', #agents) - #agents
  local entries = {}
  for number, agent in ipairs(agents) do
    entries[2 * number - 1] = int(agent[2] * QUEUE_TURN + arrival + number)
    entries[2 * number] = agent[1]
  end
  redis.call('ZADD', P .. 'queue:' .. lane, unpack(entries))
  -- Before whoever had the latest turn, behind those who wait for theirs.
  redis.call('ZADD', P .. 'waiting', 'NX', (redis.call('GET', P .. 'ticks') or 0) - 0.5, lane)
  count(tenant, 'queued', #agents)
end

-- Every lane in which an agent may wait.
local function lanes_for(tenant, id)
  local machine = redis.call('HGET', agent_key(tenant, id), 'machine')
  return { tenant, tenant .. '@', machine and tenant .. '@' .. machine or nil }
end

local function leave(lane, id)
  local removed = redis.call('ZREM', P .. 'queue:' .. lane, id)
  if removed == 1 and redis.call('EXISTS', P .. 'queue:' .. lane) == 0 then redis.call('ZREM', P .. 'waiting', lane) end
  return removed
end

-- Put aside what a machine met in its tenant's lane and another has to go on with; its place among those stays.
local function set_aside(tenant, id)
  local lane = tenant .. '@' .. bound_to(tenant, id)
  local score = redis.call('ZSCORE', P .. 'queue:' .. tenant, id)
  leave(tenant, id)
  redis.call('ZADD', P .. 'queue:' .. lane, score, id)
  redis.call('ZADD', P .. 'waiting', 'NX', (redis.call('GET', P .. 'ticks') or 0) - 0.5, lane)
end

-- `found_in` is the lane in which the entry was seen: that of a stranger need not be one to which the record leads, and
-- whoever goes through a lane would find it for ever.
local function dequeue(tenant, id, found_in)
  local queued = found_in and leave(found_in, id) or 0
  for _, lane in ipairs(lanes_for(tenant, id)) do queued = queued + leave(lane, id) end
  local held_back = redis.call('ZREM', P .. 'backoff', tenant .. ' ' .. id)
  if queued + held_back > 0 then count(tenant, 'queued', -1) end
end

-- Whether `token` is that of the lease under which this agent is held now.
local function holds(tenant, id, token)
  return redis.call('HGET', agent_key(tenant, id), 'token') == token
    and redis.call('ZSCORE', P .. 'leases', tenant .. ' ' .. id) ~= false
end

local function release(tenant, id)
  if redis.call('ZREM', P .. 'leases', tenant .. ' ' .. id) == 1 then count(tenant, 'active', -1) end
  redis.call('HDEL', agent_key(tenant, id), 'worker', 'token', 'kill', 'launched')
end

local function envelope_key(tenant, jti) return P .. 'env:' .. tenant .. ':' .. jti end

-- The signed envelope that asked for the agent, '' when it is gone: then nothing can be started. With 'resume_env' that
-- of the last resume, '' when there was none.
local function stored_envelope(tenant, id, field)
  local jti = redis.call('HGET', agent_key(tenant, id), field or 'env') or ''
  return redis.call('HGET', envelope_key(tenant, jti), 'raw') or ''
end

-- What a worker gets with a lease.
local function claimed(tenant, id, token)
  local asked, resumed = stored_envelope(tenant, id), stored_envelope(tenant, id, 'resume_env')
  return { token, asked, redis.call('HGETALL', agent_key(tenant, id)), tenant, id, resumed }
end

-- The state into which the holder of `token` took the agent: for a call that is repeated after a lost answer.
local function ended_by(tenant, id, token)
  local found = redis.call('HMGET', agent_key(tenant, id), 'ended_by', 'status')
  return found[1] == token and found[2]
end

-- Let an envelope of which no agent lives expire; one that is not stored yet is let expire by whoever stores it.
local function retire_envelope(tenant, jti, retention_ms)
  local key = envelope_key(tenant, jti)
  redis.call('PEXPIRE', key, retention_ms)
  local bytes = redis.call('HSTRLEN', key, 'raw')
  if bytes > 0 then
    redis.call('ZADD', P .. 'ended:' .. tenant, int(now_ms() + retention_ms), 'e ' .. jti .. ' ' .. bytes)
  end
end

local function ended_entry(id, bytes) return 'a ' .. id .. ' ' .. SIZE.agent + bytes end

-- Enter a terminal state and leave nothing that waits for the agent; the records go after `retention_ms`.
local function conclude(tenant, id, status, retention_ms, fields)
  if not transition(tenant, id, status, fields) then return false end
  local key = agent_key(tenant, id)
  dequeue(tenant, id)
  release(tenant, id)
  redis.call('PEXPIRE', key, retention_ms)
  local bytes = weigh(redis.call('HGETALL', key))
  charge(tenant, bytes)
  redis.call('ZADD', P .. 'ended:' .. tenant, int(now_ms() + retention_ms), ended_entry(id, bytes))
  for _, jti in ipairs(redis.call('HMGET', key, 'env', 'resume_env')) do
    if jti and redis.call('HINCRBY', envelope_key(tenant, jti), 'live', -1) <= 0 then
      retire_envelope(tenant, jti, retention_ms)
    end
  end
  redis.call('PUBLISH', P .. 'wake', '')
  return true
end

-- Keep an envelope that was stored before: an agent that it asked for lives again.
local function revive_envelope(tenant, jti)
  local key = envelope_key(tenant, jti)
  redis.call('ZREM', P .. 'ended:' .. tenant, 'e ' .. jti .. ' ' .. redis.call('HSTRLEN', key, 'raw'))
  redis.call('PERSIST', key)
  redis.call('HINCRBY', key, 'live', 1)
end

-- Take an agent that has ended back into its queue, with fields set: the one way out of a terminal state, open to the
-- peer that owns it (docs/adr/0010-resume.md).
local function reopen(tenant, id, fields)
  local key = agent_key(tenant, id)
  local bytes = weigh(redis.call('HGETALL', key))
  if redis.call('ZREM', P .. 'ended:' .. tenant, ended_entry(id, bytes)) == 1 then charge(tenant, -bytes) end
  redis.call('PERSIST', key)
  revive_envelope(tenant, redis.call('HGET', key, 'env'))
  redis.call('HDEL', key, 'started_at', 'finished_at', 'reason', 'exit_code', 'signal', 'result', 'receipt', 'detail',
    'ended_by')
  redis.call('HSET', key, 'status', 'queued', 'resumed_from', redis.call('HGET', key, 'attempt'), unpack(fields))
  redis.call('HINCRBY', key, 'seq', 1)
  note_event(tenant, redis.call('HGETALL', key))
  enqueue(tenant, { { id, tonumber(redis.call('HGET', key, 'priority')) } }, lane_of(tenant, id))
end

-- Drop an entry of `ended:T` with what it stands for. Returns the bytes that are free then, and the id of an agent.
local function forget(tenant, entry)
  local kind, id, bytes = entry:match('^(%S) (%S+) (%d+)$')
  redis.call('ZREM', P .. 'ended:' .. tenant, entry)
  charge(tenant, -bytes)
  if kind == 'e' then
    redis.call('DEL', envelope_key(tenant, id))
    return tonumber(bytes)
  end
  redis.call('DEL', agent_key(tenant, id))
  redis.call('ZREM', P .. 'agents', id .. ' ' .. tenant)
  return tonumber(bytes), id
end

-- The time of these is over: what they stand for has expired, or does so now.
local function forget_expired(tenant, limit)
  local now = int(now_ms())
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', P .. 'ended:' .. tenant, '-inf', now, 'LIMIT', 0, limit)) do
    forget(tenant, entry)
  end
end

-- Remove a name from the index of all agents when its record has expired, and with it what was counted for it.
local function drop_name(member)
  local id, tenant = member:match('^(%S+) (%S+)$')
  if id and redis.call('EXISTS', agent_key(tenant, id)) == 1 then return 0 end
  if id then forget_expired(tenant, 4) end -- an agent is at most two entries, so these keep up with the names
  redis.call('ZREM', P .. 'agents', member)
  return 1
end

-- What the agents in a tenant's queue wait for.
local function waiting_for(tenant, tenant_limit)
  if redis.call('EXISTS', P .. 'paused', P .. 'draining', P .. 'frozen:' .. tenant) > 0 then return 'paused' end
  local active = tonumber(redis.call('HGET', P .. 'load:' .. tenant, 'active') or 0)
  return active >= tenant_limit and 'peer_quota' or 'slot'
end

-- Where a queued agent stands among its tenant's, and why it waits: {position, reason}, or {} when it is not queued.
local function place(tenant, id, tenant_limit)
  for _, lane in ipairs(lanes_for(tenant, id)) do
    local rank = redis.call('ZRANK', P .. 'queue:' .. lane, id)
    if rank then return { rank + 1, waiting_for(tenant, tenant_limit) } end
  end
  if redis.call('ZSCORE', P .. 'backoff', tenant .. ' ' .. id) then
    return { redis.call('ZCARD', P .. 'queue:' .. tenant) + 1, 'backoff' }
  end
  return {}
end

-- {'agent', fields, place}, or {'error', 'not_found'}.
local function describe(tenant, id, tenant_limit)
  local fields = redis.call('HGETALL', agent_key(tenant, id))
  if #fields == 0 then return { 'error', 'not_found' } end
  return { 'agent', fields, place(tenant, id, tenant_limit) }
end

-- Kill at once what only waits; ask the worker for the rest. `kill` is JSON: {"grace_s","cause","reason"}.
local function request_kill(tenant, id, kill, cause, retention_ms)
  local key = agent_key(tenant, id)
  local status = redis.call('HGET', key, 'status')
  if status == 'queued' then
    conclude(tenant, id, 'killed', retention_ms, { 'reason', cause, 'finished_at', int(now_ms()) })
  elseif status == 'spawning' or status == 'running' then
    redis.call('HSET', key, 'kill', kill)
    redis.call('PUBLISH', P .. 'kills', tenant .. ' ' .. id)
  end
end

-- Kill what a tenant has here: at most `limit` of what waits, and all that is held, by way of its workers.
-- Returns how many waiting ones ended, and how many held ones were asked to.
local function kill_all(tenant, kill, cause, retention_ms, limit)
  local waiting, asked, found_in = redis.call('ZRANGE', P .. 'queue:' .. tenant, 0, limit - 1), 0, {}
  for _, lane in ipairs(redis.call('ZRANGE', P .. 'waiting', 0, -1)) do
    if lane ~= tenant and tenant_of(lane) == tenant and #waiting < limit then
      for _, id in ipairs(redis.call('ZRANGE', P .. 'queue:' .. lane, 0, limit - #waiting - 1)) do
        waiting[#waiting + 1], found_in[id] = id, lane
      end
    end
  end
  local function of_tenant(index, act)
    for _, member in ipairs(redis.call('ZRANGE', P .. index, 0, -1)) do
      local owner, id = member:match('^(%S+) (%S+)$')
      if owner == tenant then act(id) end
    end
  end
  of_tenant('backoff', function(id) if #waiting < limit then waiting[#waiting + 1] = id end end)
  for _, id in ipairs(waiting) do
    if redis.call('HGET', agent_key(tenant, id), 'status') == 'queued' then
      request_kill(tenant, id, kill, cause, retention_ms)
    else
      dequeue(tenant, id, found_in[id]) -- a stranger's entry
    end
  end
  of_tenant('leases', function(id)
    request_kill(tenant, id, kill, cause, retention_ms)
    asked = asked + 1
  end)
  return #waiting, asked
end
