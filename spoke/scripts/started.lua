-- The agent's process runs: ARGV: prefix, tenant, id, token, started-at ms. Returns 1, or 0 when the lease is lost.
-- Run twice it changes nothing the second time.

local tenant, id, token, started_at = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not holds(tenant, id, token) then return 0 end
transition(tenant, id, 'running', { 'started_at', started_at })
return 1
