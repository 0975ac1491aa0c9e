-- Puts spawns back into the outbox whose spoke had taken them and knows nothing of them any more: its store was lost, and
-- they had not been started as far as anybody was told. Same id, same command: a spoke that may have started one after
-- all refuses it as stale. Safe to run twice: the second time they are pending.
--
-- ARGV     now (ms), length of the event stream, and the agent ids
--
-- Returns the ids of those that go again.
local now, maxlen, again = ARGV[1], ARGV[2], {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local agent = p .. 'agent:' .. id
  local known = redis.call('HMGET', agent, 'tenant', 'spoke', 'task', 'shown', 'delivery', 'command')
  if known[4] == 'queued' and known[5] == 'delivered' and (known[6] or '') ~= '' then
    local sequence = redis.call('INCR', p .. 'sequence')
    line_up(id, known[1], sequence)
    show(id, known[2], known[1], 'queued', 'pending', now)
    -- Its transitions are counted from 1 again.
    redis.call('HSET', agent, 'status', 'pending', 'shown', 'pending', 'seq', 0, 'agent', '', 'delivery', 'pending',
      'sequence', sequence)
    redis.call('HDEL', agent, 'put_off')
    emit(maxlen, id, known[2], known[3], 'pending', 0, 'pending', 'lost')
    again[#again + 1] = id
  end
end
flush()
return again
