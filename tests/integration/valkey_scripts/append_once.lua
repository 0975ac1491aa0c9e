-- Appends ARGV[1] to the list KEYS[1] unless it holds it already; returns the members. Safe to run twice.
if not redis.call('LPOS', KEYS[1], ARGV[1]) then
  redis.call('RPUSH', KEYS[1], ARGV[1])
end
return redis.call('LRANGE', KEYS[1], 0, -1)
