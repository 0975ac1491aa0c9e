-- Give one queued agent to a worker under a lease: the first by priority of the tenant whose turn it is.
--
-- ARGV: prefix, worker, lease ms, spoke's agents limit, number of tenants, then tenant, its agents limit for each that may
--   start agents now; the others' wait.
-- Returns {token, raw envelope, fields, tenant, id, raw envelope of the last resume or ''}, or {} when there is nothing to start now.
-- What was started once goes on where it was: workers of other machines leave it.
-- Run twice it claims two; a claim whose answer was lost comes back when its lease ends, its attempt counted.

local worker, lease_ms, agents_limit, tenants = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local PROMOTED_AT_ONCE, LONGEST_PAUSE_MS = 100, 120000
local limits = {}
for number = 1, tenants do limits[ARGV[4 + 2 * number]] = tonumber(ARGV[5 + 2 * number]) end
local now, mine = now_ms(), machine_of(worker)

-- An entry without a queued record was put there, or its record taken away, by a stranger: it is dropped.
local function is_queued(tenant, id) return redis.call('HGET', agent_key(tenant, id), 'status') == 'queued' end

local due = redis.call('ZRANGEBYSCORE', P .. 'backoff', '-inf', now, 'LIMIT', 0, PROMOTED_AT_ONCE)
-- No pause is that long: the clock was set back, and they must not wait until it is that late again.
local stranded = redis.call('ZREVRANGEBYSCORE', P .. 'backoff', '+inf', now + LONGEST_PAUSE_MS, 'LIMIT', 0, PROMOTED_AT_ONCE)
for _, member in ipairs(stranded) do due[#due + 1] = member end
for _, member in ipairs(due) do
  local tenant, id = member:match('^(%S+) (%S+)$')
  redis.call('ZREM', P .. 'backoff', member)
  count(tenant, 'queued', -1) -- enqueue counts it again
  if is_queued(tenant, id) then
    local priority = tonumber(redis.call('HGET', agent_key(tenant, id), 'priority'))
    enqueue(tenant, { { id, priority } }, lane_of(tenant, id))
  end
end

if redis.call('EXISTS', P .. 'paused') == 1 or redis.call('EXISTS', P .. 'draining') == 1 then return {} end
if tonumber(redis.call('HGET', P .. 'load', 'active') or 0) >= agents_limit then return {} end

-- The first of a lane that this worker may have, as {id, score}; {} when there is none.
local function first_of(lane, tenant)
  if lane ~= tenant and lane ~= tenant .. '@' .. mine then return {} end
  repeat
    local first = redis.call('ZRANGE', P .. 'queue:' .. lane, 0, 0, 'WITHSCORES')
    if lane ~= tenant or not first[1] or (bound_to(tenant, first[1]) or mine) == mine then return first end
    set_aside(tenant, first[1])
  until false
end

-- Among the lanes' first entries the best priority wins; between equals the lane that has waited longest for a turn.
local function choose()
  local chosen, chosen_id, best
  for _, lane in ipairs(redis.call('ZRANGE', P .. 'waiting', 0, -1)) do
    local tenant = tenant_of(lane)
    local limit = limits[tenant]
    if limit and redis.call('EXISTS', P .. 'frozen:' .. tenant) == 0
      and tonumber(redis.call('HGET', P .. 'load:' .. tenant, 'active') or 0) < limit then
      local first = first_of(lane, tenant)
      local priority = math.floor(tonumber(first[2] or 0) / QUEUE_TURN)
      if first[1] and (not best or priority < best) then chosen, chosen_id, best = lane, first[1], priority end
    end
  end
  return chosen, chosen_id
end

local lane, chosen, chosen_id
repeat
  lane, chosen_id = choose()
  if not lane then return {} end
  chosen = tenant_of(lane)
  dequeue(chosen, chosen_id, lane)
until is_queued(chosen, chosen_id)

redis.call('ZADD', P .. 'waiting', 'XX', redis.call('INCR', P .. 'ticks'), lane)
local token = int(redis.call('INCR', P .. 'fence'))
local key = agent_key(chosen, chosen_id)
redis.call('ZADD', P .. 'leases', int(now + lease_ms), chosen .. ' ' .. chosen_id)
count(chosen, 'active', 1)
redis.call('HINCRBY', key, 'attempt', 1)
if mine == '' then redis.call('HDEL', key, 'machine') else redis.call('HSET', key, 'machine', mine) end
transition(chosen, chosen_id, 'spawning', { 'worker', worker, 'token', token })
return claimed(chosen, chosen_id, token)
