-- Give one queued agent to a worker under a lease: the first by priority of the tenant whose turn it is.
--
-- ARGV: prefix, worker, lease ms, spoke's agents limit, number of tenants, then tenant, its agents limit for each that may
--   start agents now; the others' wait.
-- Returns {token, raw envelope, fields, tenant, id, raw envelope of the last resume or ''}, or {} when there is nothing to start now.
-- Run twice it claims two; a claim whose answer was lost comes back when its lease ends, its attempt counted.

local worker, lease_ms, agents_limit, tenants = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local PROMOTED_AT_ONCE, LONGEST_PAUSE_MS = 100, 120000
local limits = {}
for number = 1, tenants do limits[ARGV[4 + 2 * number]] = tonumber(ARGV[5 + 2 * number]) end
local now = now_ms()

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
  if is_queued(tenant, id) then enqueue(tenant, { { id, tonumber(redis.call('HGET', agent_key(tenant, id), 'priority')) } }) end
end

if redis.call('EXISTS', P .. 'paused') == 1 or redis.call('EXISTS', P .. 'draining') == 1 then return {} end
if tonumber(redis.call('HGET', P .. 'load', 'active') or 0) >= agents_limit then return {} end

-- Among the tenants' first entries the best priority wins; between equals the tenant that has waited longest for a turn.
local function choose()
  local chosen, chosen_id, best
  for _, tenant in ipairs(redis.call('ZRANGE', P .. 'waiting', 0, -1)) do
    local limit = limits[tenant]
    if limit and redis.call('EXISTS', P .. 'frozen:' .. tenant) == 0
      and tonumber(redis.call('HGET', P .. 'load:' .. tenant, 'active') or 0) < limit then
      local first = redis.call('ZRANGE', P .. 'queue:' .. tenant, 0, 0, 'WITHSCORES')
      local priority = math.floor(tonumber(first[2]) / QUEUE_TURN)
      if not best or priority < best then chosen, chosen_id, best = tenant, first[1], priority end
    end
  end
  return chosen, chosen_id
end

local chosen, chosen_id
repeat
  chosen, chosen_id = choose()
  if not chosen then return {} end
  dequeue(chosen, chosen_id)
until is_queued(chosen, chosen_id)

redis.call('ZADD', P .. 'waiting', 'XX', redis.call('INCR', P .. 'ticks'), chosen)
local token = int(redis.call('INCR', P .. 'fence'))
local key = agent_key(chosen, chosen_id)
redis.call('ZADD', P .. 'leases', int(now + lease_ms), chosen .. ' ' .. chosen_id)
count(chosen, 'active', 1)
redis.call('HINCRBY', key, 'attempt', 1)
transition(chosen, chosen_id, 'spawning', { 'worker', worker, 'token', token })
return claimed(chosen, chosen_id, token)
