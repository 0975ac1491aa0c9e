-- Takes a freeze or a thaw of this hub at a spoke into the outbox. It makes those that wait void, so they need no limit;
-- but a freeze that kills waits on until it is answered, or replaced by another that kills. Run twice it has one effect.
--
-- ARGV     tenant, command id, kind (freeze or thaw), 1 when it kills, command (JSON), now (ms), reason,
--          traceparent ('' for none)
local tenant, command, kind, kills = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local peer = p .. 'peer:' .. tenant
local known = redis.call('HMGET', peer, 'latch_id', 'latch_kill_id')
if known[1] == command then
  return redis.status_reply('OK')
end
if known[1] and known[1] ~= known[2] then
  drop(known[1], tenant)
end
if kills then
  if known[2] then
    drop(known[2], tenant)
  end
  redis.call('HSET', peer, 'latch_kill_id', command)
end
put(command, kind, '', tenant, ARGV[5], ARGV[8])
redis.call('HSET', peer, 'latch_id', command, 'latch', kind, 'latch_state', 'pending', 'latch_error', '',
  'latch_killed', '', 'latch_at', ARGV[6], 'latch_reason', ARGV[7])
flush()
return redis.status_reply('OK')
