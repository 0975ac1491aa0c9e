-- Reads what is to be sent to one spoke next, in order. Takes nothing out: that is done when the answer is there
-- (record.lua), so a hub that dies in between sends again (fault rows 2, 3).
--
-- ARGV     now (ms), tenant, at most so many commands, at most so many bytes of JSON
--
-- Returns {{command id, kind, agent id, JSON, how often it was put off, traceparent or ''}..., how many more are ready,
-- time (ms) at which the next deferred one is due, or ''}.
local now, tenant, count, bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local outbox, deferred = p .. 'outbox:' .. tenant, p .. 'deferred:' .. tenant

-- A command that waits: kind (false where there is none), agent, JSON, put_off, trace, sequence; a spawn has its agent's id.
local function read(id)
  local spawn = redis.call('HMGET', p .. 'agent:' .. id, 'command', 'put_off', 'trace', 'sequence', 'delivery')
  if spawn[1] and spawn[5] == 'pending' then
    return 'spawn', id, unpack(spawn, 1, 4)
  end
  return unpack(redis.call('HMGET', p .. 'cmd:' .. id, 'kind', 'agent', 'json', 'put_off', 'trace', 'sequence'))
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', deferred, '-inf', now, 'LIMIT', 0, 1000)) do
  redis.call('ZREM', deferred, id)
  local _, _, _, _, _, sequence = read(id)
  -- Without a place it came from an older hub, by a copy of the store: then it is the last.
  redis.call('ZADD', outbox, sequence or redis.call('INCR', p .. 'sequence'), id)
end
local commands = {}
for _, id in ipairs(redis.call('ZRANGE', outbox, 0, count - 1)) do
  local kind, agent, json, put_off, trace = read(id)
  if kind then
    bytes = bytes - #json - 1
    if bytes < 0 and #commands > 0 then
      break
    end
    commands[#commands + 1] = {id, kind, agent, json, put_off or '0', trace or ''}
  else
    redis.call('ZREM', outbox, id) -- no script of ours left it there
  end
end
local following = redis.call('ZRANGE', deferred, 0, 0, 'WITHSCORES')
return {commands, redis.call('ZCARD', outbox) - #commands, following[2] or ''}
