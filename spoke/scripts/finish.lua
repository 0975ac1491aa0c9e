-- An agent has ended: ARGV: prefix, tenant, id, token, status, retention ms, then field, value pairs.
-- Returns 1, or 0 when the lease is lost. Run twice it answers the same and changes nothing the second time.

local tenant, id, token, status = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not holds(tenant, id, token) then return ended_by(tenant, id, token) and 1 or 0 end
local fields = { 'finished_at', int(now_ms()), 'ended_by', token }
for at = 7, #ARGV do fields[#fields + 1] = ARGV[at] end
return conclude(tenant, id, status, tonumber(ARGV[6]), fields) and 1 or 0
