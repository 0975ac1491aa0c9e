-- Notes that an envelope was not answered: on its commands, which stay where they are, and on the spoke.
-- Run twice it counts one attempt too many and changes nothing else.
--
-- ARGV     now (ms), tenant, error (JSON), failures in a row, time of the next attempt (ms), and the command ids
local now, tenant, err = ARGV[1], ARGV[2], ARGV[3]
local peer = p .. 'peer:' .. tenant
redis.call('HSET', peer, 'tried', now, 'failures', ARGV[4], 'next', ARGV[5], 'error', err)
redis.call('HSETNX', peer, 'failing', now)
for i = 6, #ARGV do
  local id = ARGV[i]
  local known = redis.call('HMGET', p .. 'cmd:' .. id, 'kind', 'agent')
  if known[1] == 'kill' then
    redis.call('HSET', p .. 'agent:' .. known[2], 'kill_error', err)
  elseif known[1] and redis.call('HGET', peer, 'latch_id') == id then
    redis.call('HSET', peer, 'latch_error', err)
  elseif redis.call('HGET', p .. 'agent:' .. id, 'delivery') == 'pending' then
    redis.call('HINCRBY', p .. 'agent:' .. id, 'attempts', 1)
    redis.call('HSET', p .. 'agent:' .. id, 'error', err)
  end
end
return redis.status_reply('OK')
