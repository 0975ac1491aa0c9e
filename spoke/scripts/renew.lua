-- Keep leases: ARGV: prefix, lease ms, then tenant, id, token for each.
-- Returns for each {1, kill-JSON or ''}, or {0} where the lease belongs to somebody else or to nobody.

local deadline = int(now_ms() + tonumber(ARGV[2]))
local answers = {}
for at = 3, #ARGV, 3 do
  local tenant, id, token = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if holds(tenant, id, token) then
    redis.call('ZADD', P .. 'leases', 'XX', deadline, tenant .. ' ' .. id)
    answers[#answers + 1] = { 1, redis.call('HGET', agent_key(tenant, id), 'kill') or '' }
  else
    answers[#answers + 1] = { 0 }
  end
end
return answers
