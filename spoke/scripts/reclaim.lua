-- Take over an agent whose worker is gone: one that an earlier life of this worker held, or one whose lease nobody keeps.
--
-- ARGV: prefix, worker, lease ms, former: leases of workers whose name begins so are taken at once ('' for none), then
--   "T A", deadline for each lease that stood still for as long as a lease lasts (spoke/lease_watch.py); it is taken if it
--   still stands there. The clock of this server does not count: it may have been set.
-- What a worker of one machine held is taken over on that machine only: nobody else knows whether its agent still runs.
-- Returns what `claim` does, under a new token, so that the former holder's late writes are refused; or {}.

local worker, lease_ms, former = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now, mine = now_ms(), machine_of(worker)

local function holder_of(member)
  local tenant, id = member:match('^(%S+) (%S+)$')
  return redis.call('HGET', agent_key(tenant, id), 'worker') or ''
end

local function candidate()
  for at = 5, #ARGV, 2 do
    local deadline = tonumber(redis.call('ZSCORE', P .. 'leases', ARGV[at]) or -1)
    if deadline == tonumber(ARGV[at + 1]) and machine_of(holder_of(ARGV[at])) == mine then return ARGV[at] end
  end
  if former == '' then return end
  for _, member in ipairs(redis.call('ZRANGE', P .. 'leases', 0, -1)) do
    local holder = holder_of(member)
    if holder ~= worker and holder:sub(1, #former) == former then return member end
  end
end

local member, tenant, id, status
repeat
  member = candidate()
  if not member then return {} end
  tenant, id = member:match('^(%S+) (%S+)$')
  status = redis.call('HGET', agent_key(tenant, id), 'status')
  local held = status == 'spawning' or status == 'running'
  -- A lease without a record that can be held was left by a stranger: it must not take a slot for ever.
  if not held then release(tenant, id) end
until held
local key = agent_key(tenant, id)
local token = int(redis.call('INCR', P .. 'fence'))
redis.call('HSET', key, 'worker', worker, 'token', token)
redis.call('ZADD', P .. 'leases', int(now + lease_ms), member)
return claimed(tenant, id, token)
