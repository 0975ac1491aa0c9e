-- What a worker holds, for the node that is asked whether it may be started: ARGV: prefix, tenant, id, token.
-- Returns what `claim` does, or {} when the lease is lost.

local tenant, id, token = ARGV[2], ARGV[3], ARGV[4]
if not holds(tenant, id, token) then return {} end
return claimed(tenant, id, token)
