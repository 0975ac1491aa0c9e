-- Queue the work of an agent that failed or was killed again, as a new agent (docs/adr/0006-requeue.md).
--
-- ARGV: prefix, tenant, id, new id, jti, raw envelope, spoke's queue limit, hash, task, type, priority, timeout, max_attempts.
-- Returns {'requeued', fields, place}, or {'refused', code, id of the agent it was requeued as, or ''}: 'not_found',
--   'not_failed', 'conflict', 'draining', 'queue_full'. Run twice it answers the same and queues one.

local tenant, id, new_id, jti, raw = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local key, new_key = agent_key(tenant, id), agent_key(tenant, new_id)
local UNLIMITED = 1e9

local function refusal()
  local found = redis.call('HMGET', key, 'status', 'requeued_as')
  local status, requeued_as = found[1], found[2]
  if not status then return 'not_found' end
  if requeued_as then return 'conflict', requeued_as end
  if status ~= 'failed' and status ~= 'killed' then return 'not_failed' end
  if redis.call('EXISTS', P .. 'draining') == 1 then return 'draining' end
  if tonumber(redis.call('HGET', P .. 'load', 'queued') or 0) >= tonumber(ARGV[7]) then return 'queue_full' end
end

if redis.call('HGET', new_key, 'origin') ~= id then
  local code, requeued_as = refusal()
  if code then return { 'refused', code, requeued_as or '' } end
  local fields = {
    'id', new_id, 'tenant', tenant, 'peer', redis.call('HGET', key, 'peer'), 'status', 'queued', 'seq', '1',
    'attempt', '0', 'hash', ARGV[8], 'env', jti, 'index', '0', 'task', ARGV[9], 'type', ARGV[10], 'priority', ARGV[11],
    'timeout', ARGV[12], 'max_attempts', ARGV[13], 'queued_at', int(now_ms()), 'origin', id,
  }
  redis.call('HSET', new_key, unpack(fields))
  redis.call('HSET', key, 'requeued_as', new_id)
  redis.call('ZADD', P .. 'agents', 0, new_id .. ' ' .. tenant)
  redis.call('HSET', envelope_key(tenant, jti), 'raw', raw, 'live', 1)
  charge(tenant, SIZE.agent + #raw)
  enqueue(tenant, { { new_id, tonumber(ARGV[11]) } })
  note_event(tenant, fields)
  redis.call('PUBLISH', P .. 'changes', tenant)
  redis.call('PUBLISH', P .. 'wake', '')
end
return { 'requeued', redis.call('HGETALL', new_key), place(tenant, new_id, UNLIMITED) }
