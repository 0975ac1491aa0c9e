-- Forget transitions that the peer has: ARGV: prefix, tenant, then entries of its stream, at most 1000.
-- Run twice it changes nothing the second time.

local events, bytes = P .. 'events:' .. ARGV[2], 0
for at = 3, #ARGV do
  local found = redis.call('XRANGE', events, ARGV[at], ARGV[at])
  if found[1] then bytes = bytes + SIZE.event + weigh(found[1][2]) end
end
charge(ARGV[2], -bytes)
redis.call('XDEL', events, unpack(ARGV, 3))
return {}
