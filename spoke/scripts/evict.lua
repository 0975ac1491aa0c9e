-- End what tenants hold here whose connection is over.
--
-- ARGV: prefix, kill-JSON, cause, retention ms, how many waiting agents at most, then the tenants that go.
-- Returns {waiting agents ended, held agents asked to end}; the held ones go through their workers. Run twice it ends no
--   agent twice. What others may still read of those tenants, their events, goes with the records.

local kill, cause, retention_ms, limit = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local goes = {}
for at = 6, #ARGV do goes[ARGV[at]] = true end
local ended, asked = 0, 0

local function end_waiting(tenant, id, lane)
  if redis.call('HGET', agent_key(tenant, id), 'status') == 'queued' then
    request_kill(tenant, id, kill, cause, retention_ms)
  else
    dequeue(tenant, id, lane) -- a stranger's entry
  end
  redis.call('PEXPIRE', P .. 'events:' .. tenant, retention_ms)
  ended = ended + 1
end

for _, lane in ipairs(redis.call('ZRANGE', P .. 'waiting', 0, -1)) do
  local tenant = tenant_of(lane)
  if goes[tenant] and ended < limit then
    for _, id in ipairs(redis.call('ZRANGE', P .. 'queue:' .. lane, 0, limit - ended - 1)) do
      end_waiting(tenant, id, lane)
    end
  end
end
for _, member in ipairs(redis.call('ZRANGE', P .. 'backoff', 0, -1)) do
  local tenant, id = member:match('^(%S+) (%S+)$')
  if goes[tenant] and ended < limit then end_waiting(tenant, id) end
end
for _, member in ipairs(redis.call('ZRANGE', P .. 'leases', 0, -1)) do
  local tenant, id = member:match('^(%S+) (%S+)$')
  if goes[tenant] then
    request_kill(tenant, id, kill, cause, retention_ms)
    redis.call('PEXPIRE', P .. 'events:' .. tenant, retention_ms)
    asked = asked + 1
  end
end
return { ended, asked }
