-- Take over an agent whose worker is gone: one with an expired lease, or one that an earlier life of this worker held.
--
-- ARGV: prefix, worker, lease ms, former: leases of workers whose name begins so are taken unexpired too ('' for none).
-- Returns {token, raw envelope, fields} under a new token, so that the former holder's late writes are refused; or {}.

local worker, lease_ms, former = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now = now_ms()

local function candidate()
  local expired = redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', now, 'LIMIT', 0, 1)
  if expired[1] or former == '' then return expired[1] end
  for _, member in ipairs(redis.call('ZRANGE', P .. 'leases', 0, -1)) do
    local tenant, id = member:match('^(%S+) (%S+)$')
    local holder = redis.call('HGET', agent_key(tenant, id), 'worker') or ''
    if holder ~= worker and holder:sub(1, #former) == former then return member end
  end
end

local member = candidate()
if not member then return {} end
local tenant, id = member:match('^(%S+) (%S+)$')
local key = agent_key(tenant, id)
local token = int(redis.call('INCR', P .. 'fence'))
redis.call('HSET', key, 'worker', worker, 'token', token)
redis.call('ZADD', P .. 'leases', int(now + lease_ms), member)
local raw = redis.call('HGET', P .. 'env:' .. tenant .. ':' .. redis.call('HGET', key, 'env'), 'raw')
return { token, raw or '', redis.call('HGETALL', key) }
