-- Put back the record of a run that the store has forgotten, as the last worker had it (spoke/salvage.py).
--
-- ARGV: prefix, tenant, id, worker, raw envelope, jti of it, the same two of the last resume ('' for none), then field,
--   value pairs of the record, in state `spawning`.
-- Returns 1, or 0 when there is a record. It lies under a lease of `worker`, for a living one to take over.
-- Run twice it changes nothing the second time.

local tenant, id, worker = ARGV[2], ARGV[3], ARGV[4]
local key, member = agent_key(tenant, id), tenant .. ' ' .. id
if redis.call('EXISTS', key) == 1 then return 0 end
redis.call('HSET', key, 'worker', worker, 'token', int(redis.call('INCR', P .. 'fence')), unpack(ARGV, 9))
redis.call('ZADD', P .. 'agents', 0, id .. ' ' .. tenant)
redis.call('ZADD', P .. 'leases', int(now_ms()), member)
count(tenant, 'active', 1)
charge(tenant, SIZE.agent)
for at = 5, 7, 2 do
  local raw, jti = ARGV[at], ARGV[at + 1]
  if raw ~= '' then
    -- An envelope that was kept for ended agents only is counted already.
    if redis.call('HSET', envelope_key(tenant, jti), 'raw', raw) == 1 then charge(tenant, #raw) end
    revive_envelope(tenant, jti)
  end
end
return 1
