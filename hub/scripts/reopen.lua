-- Notes that an agent which has ended may come back: this hub asks its spoke to resume it. Safe to run twice.
--
-- ARGV     agent id, the resume's command id ('' when the spoke refused: its end is final again)
--
-- Returns ok, not_found, or killing: a kill of it is still on its way, and would end what the resume begins.
local agent = p .. 'agent:' .. ARGV[1]
if redis.call('EXISTS', agent) == 0 then
  return 'not_found'
end
if ARGV[2] ~= '' and redis.call('HGET', agent, 'kill_state') == 'pending' then
  return 'killing'
end
redis.call('HSET', agent, 'resume_id', ARGV[2])
return 'ok'
