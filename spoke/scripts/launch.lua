-- The fence before a process is started: only the holder of the lease passes, and not once a kill was asked for.
--
-- ARGV: prefix, tenant, id, token. Returns 'launch', 'killed' or 'lost'. Run twice it answers the same.

local tenant, id, token = ARGV[2], ARGV[3], ARGV[4]
if not holds(tenant, id, token) then return 'lost' end
local key = agent_key(tenant, id)
if redis.call('HEXISTS', key, 'kill') == 1 then return 'killed' end
redis.call('HSET', key, 'launched', redis.call('HGET', key, 'attempt'))
return 'launch'
