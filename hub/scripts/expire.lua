-- Takes spawns whose deadline has passed out of the outbox; they are never sent (again). Safe to run twice.
-- The keyspace is described in enqueue.lua.
--
-- KEYS[1]  p, the prefix of every key of this hub
-- ARGV     now (ms), length of the event stream, error (JSON) to show, at most so many
--
-- Returns the agent ids.
local p, now, maxlen, err = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local expired = redis.call('ZRANGEBYSCORE', p .. 'deadlines', '-inf', now, 'LIMIT', 0, ARGV[4])
for _, id in ipairs(expired) do
  local agent = p .. 'agent:' .. id
  local known = redis.call('HMGET', agent, 'tenant', 'spoke', 'task', 'seq', 'shown')
  local tenant, shown = known[1], known[5]
  redis.call('ZREM', p .. 'deadlines', id)
  redis.call('ZREM', p .. 'outbox:' .. tenant, id)
  redis.call('ZREM', p .. 'deferred:' .. tenant, id)
  redis.call('DEL', p .. 'cmd:' .. id)
  redis.call('HSET', agent, 'delivery', 'expired', 'error', err)
  if known[4] == '0' then
    redis.call('ZREM', p .. 'shown:' .. shown, id)
    redis.call('ZADD', p .. 'shown:expired', 0, id)
    redis.call('HSET', agent, 'shown', 'expired')
    shown = 'expired'
  end
  if redis.call('ZCARD', p .. 'outbox:' .. tenant) == 0 and redis.call('ZCARD', p .. 'deferred:' .. tenant) == 0 then
    redis.call('SREM', p .. 'outboxes', tenant)
  end
  redis.call('XADD', p .. 'events', 'MAXLEN', '~', maxlen, '*', 'agent', id, 'spoke', known[2], 'task', known[3],
    'status', shown, 'seq', known[4], 'delivery', 'expired', 'reason', 'expired')
end
return expired
