-- Takes spawns whose deadline has passed out of the outbox; they are never sent (again). Safe to run twice.
--
--
-- ARGV     now (ms), length of the event stream, error (JSON) to show, at most so many
--
-- Returns the agent ids.
local now, maxlen, err = ARGV[1], ARGV[2], ARGV[3]
local expired = redis.call('ZRANGEBYSCORE', p .. 'deadlines', '-inf', now, 'LIMIT', 0, ARGV[4])
for _, id in ipairs(expired) do
  local known = redis.call('HMGET', p .. 'agent:' .. id, 'tenant', 'seq', 'spoke', 'task', 'shown')
  if known[1] then
    local shown = known[2] == '0' and 'expired' or known[5]
    drop_spawn(id, known[1])
    show(id, known[3], known[1], known[5], shown, now)
    redis.call('HSET', p .. 'agent:' .. id, 'delivery', 'expired', 'error', err, 'shown', shown)
    emit(maxlen, id, known[3], known[4], shown, known[2], 'expired', 'expired')
  else
    place(p .. 'deadlines', id, false) -- forgotten by an older hub
  end
end
flush()
return expired
