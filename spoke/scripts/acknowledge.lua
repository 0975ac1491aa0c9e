-- Forget transitions that the peer has: ARGV: prefix, tenant, then entries of its stream and the bytes of their text, at
-- most 1000. Run twice it changes nothing the second time.

local events, bytes = P .. 'events:' .. ARGV[2], 0
for at = 3, #ARGV, 2 do
  if redis.call('XDEL', events, ARGV[at]) == 1 then bytes = bytes + SIZE.event + ARGV[at + 1] end
end
charge(ARGV[2], -bytes)
return {}
