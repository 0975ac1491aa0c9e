-- Reads what is to be sent to one spoke next, in order. Takes nothing out: that is done when the answer is there
-- (record.lua), so a hub that dies in between sends again (fault rows 2, 3).
--
-- ARGV     now (ms), tenant, at most so many commands, at most so many bytes of JSON
--
-- Returns {{command id, kind, agent id, JSON, attempts, traceparent or ''}..., how many more are ready, time (ms) at which
-- the next deferred one is due, or ''}.
local now, tenant, count, bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local outbox, deferred = p .. 'outbox:' .. tenant, p .. 'deferred:' .. tenant
for _, id in ipairs(redis.call('ZRANGEBYSCORE', deferred, '-inf', now, 'LIMIT', 0, 1000)) do
  redis.call('ZREM', deferred, id)
  local sequence = redis.call('HGET', p .. 'cmd:' .. id, 'sequence')
  if sequence then
    redis.call('ZADD', outbox, sequence, id)
  end
end
local commands = {}
for _, id in ipairs(redis.call('ZRANGE', outbox, 0, count - 1)) do
  local fields = redis.call('HMGET', p .. 'cmd:' .. id, 'kind', 'agent', 'json', 'attempts', 'trace')
  bytes = bytes - #fields[3] - 1
  if bytes < 0 and #commands > 0 then
    break
  end
  commands[#commands + 1] = {id, fields[1], fields[2], fields[3], fields[4], fields[5] or ''}
end
local following = redis.call('ZRANGE', deferred, 0, 0, 'WITHSCORES')
return {commands, redis.call('ZCARD', outbox) - #commands, following[2] or ''}
