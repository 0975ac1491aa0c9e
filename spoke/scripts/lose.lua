-- A machine is given up: what its workers hold, and what waits to go on there, fails; nobody can say whether it still runs.
--
-- ARGV: prefix, machine, retention ms, detail, how many at most.
-- Returns how many have failed. Late writes of its workers are refused from then on, since their leases are gone.

local machine, retention_ms, detail, limit = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local lost = 0

local function lose(tenant, id, lane)
  if lost >= limit then return end
  local ended = { 'reason', 'lost', 'detail', detail, 'finished_at', int(now_ms()) }
  if not conclude(tenant, id, 'failed', retention_ms, ended) then -- a stranger's entry
    dequeue(tenant, id, lane)
    release(tenant, id)
  end
  lost = lost + 1
end

for _, member in ipairs(redis.call('ZRANGE', P .. 'leases', 0, -1)) do
  local tenant, id = member:match('^(%S+) (%S+)$')
  if machine_of(redis.call('HGET', agent_key(tenant, id), 'worker')) == machine then lose(tenant, id) end
end
for _, member in ipairs(redis.call('ZRANGE', P .. 'backoff', 0, -1)) do
  local tenant, id = member:match('^(%S+) (%S+)$')
  if bound_to(tenant, id) == machine then lose(tenant, id) end
end
for _, lane in ipairs(redis.call('ZRANGE', P .. 'waiting', 0, -1)) do
  if lane:match('@(.+)$') == machine then
    for _, id in ipairs(redis.call('ZRANGE', P .. 'queue:' .. lane, 0, limit)) do lose(tenant_of(lane), id, lane) end
  end
end
return lost
