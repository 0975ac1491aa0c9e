-- Our side failed an agent: queue it again after a pause, or fail it when its attempts are used up.
--
-- ARGV: prefix, tenant, id, token, pause ms, reason, detail, retention ms, 1 when another attempt may help,
--   1 when this attempt does not count because the worker gave it back unstarted.
-- Returns 'queued', 'failed', 'killed' or 'lost'. Run twice it changes nothing the second time: the answer is the same for
--   an agent that ended, and 'lost' for one that was queued, since somebody else may have it by now.

local tenant, id, token, pause_ms, reason, detail = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7]
local retention_ms, may_help = tonumber(ARGV[8]), ARGV[9] == '1'
if not holds(tenant, id, token) then return ended_by(tenant, id, token) or 'lost' end
local key = agent_key(tenant, id)
local ended = { 'finished_at', int(now_ms()), 'ended_by', token, 'detail', detail, 'reason' }
if ARGV[10] == '1' then redis.call('HINCRBY', key, 'attempt', -1) end
local kill = redis.call('HGET', key, 'kill')
if kill then
  ended[#ended + 1] = cjson.decode(kill).cause
  conclude(tenant, id, 'killed', retention_ms, ended)
  return 'killed'
end
-- A resume gives as many attempts anew.
local attempts = redis.call('HGET', key, 'attempt') - (redis.call('HGET', key, 'resumed_from') or 0)
local max_attempts = tonumber(redis.call('HGET', key, 'max_attempts'))
if not may_help or attempts >= max_attempts then
  ended[#ended + 1] = (may_help and max_attempts > 1) and 'attempts_exhausted' or reason
  conclude(tenant, id, 'failed', retention_ms, ended)
  return 'failed'
end
release(tenant, id)
redis.call('HDEL', key, 'started_at')
transition(tenant, id, 'queued', { 'detail', detail })
redis.call('ZADD', P .. 'backoff', int(now_ms() + pause_ms), tenant .. ' ' .. id)
count(tenant, 'queued', 1)
return 'queued'
