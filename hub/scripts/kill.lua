-- Takes a kill into the outbox: at most one waits per agent, so kills need no limit and always find room.
-- Safe to run twice: a kill that waits is answered with its id. The keyspace is described in enqueue.lua.
--
-- KEYS[1]  p, the prefix of every key of this hub
-- ARGV     agent id, command id, command (JSON)
--
-- Returns {outcome, command id, what is shown}: queued, same, ended (nothing to kill) or not_found.
local p, id, command = KEYS[1], ARGV[1], ARGV[2]
local agent = p .. 'agent:' .. id
local known = redis.call('HMGET', agent, 'tenant', 'shown', 'kill_id', 'kill_state')
local tenant, shown = known[1], known[2]
if not tenant then
  return {'not_found', '', ''}
end
if shown == 'completed' or shown == 'failed' or shown == 'killed' or shown == 'refused' then
  return {'ended', '', shown}
end
if known[4] == 'pending' then
  return {'same', known[3], shown}
end
local sequence = redis.call('INCR', p .. 'sequence')
redis.call('HSET', p .. 'cmd:' .. command, 'kind', 'kill', 'agent', id, 'tenant', tenant, 'json', ARGV[3],
  'sequence', sequence, 'attempts', 0)
redis.call('ZADD', p .. 'outbox:' .. tenant, sequence, command)
redis.call('SADD', p .. 'outboxes', tenant)
redis.call('HSET', agent, 'kill_id', command, 'kill_state', 'pending', 'kill_error', '')
return {'queued', command, shown}
