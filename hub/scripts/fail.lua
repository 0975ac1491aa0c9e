-- Notes that an envelope was not answered: on its commands, which stay where they are, and on the spoke.
-- Run twice it counts one attempt too many and changes nothing else.
--
-- ARGV     tenant, error (JSON), failures in a row, time of the next attempt (ms), and the command ids
local tenant, err = ARGV[1], ARGV[2]
redis.call('HSET', p .. 'peer:' .. tenant, 'failures', ARGV[3], 'next', ARGV[4], 'error', err)
for i = 5, #ARGV do
  local known = redis.call('HMGET', p .. 'cmd:' .. ARGV[i], 'kind', 'agent')
  if known[1] == 'spawn' then
    redis.call('HINCRBY', p .. 'agent:' .. known[2], 'attempts', 1)
    redis.call('HSET', p .. 'agent:' .. known[2], 'error', err)
  elseif known[1] == 'kill' then
    redis.call('HSET', p .. 'agent:' .. known[2], 'kill_error', err)
  elseif known[1] and redis.call('HGET', p .. 'peer:' .. tenant, 'latch_id') == ARGV[i] then
    redis.call('HSET', p .. 'peer:' .. tenant, 'latch_error', err)
  end
end
return redis.status_reply('OK')
