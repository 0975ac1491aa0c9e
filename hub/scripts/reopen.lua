-- Notes that an agent which has ended may come back: this hub asks its spoke to resume it. Safe to run twice.
--
-- ARGV     agent id, the resume's command id, 1 when the spoke refused it: then it brings nothing back
--
-- Several may be on their way, and of one without an answer nobody knows: that another is refused says nothing about it.
-- Returns ok, not_found, or killing: a kill of it is still on its way, and would end what the resume begins.
local MOST = 16 -- while so many are known that were not refused, news count anyhow
local agent, command, refused = p .. 'agent:' .. ARGV[1], ARGV[2], ARGV[3] == '1'
if redis.call('EXISTS', agent) == 0 then
  return 'not_found'
end
if not refused and redis.call('HGET', agent, 'kill_state') == 'pending' then
  return 'killing'
end
local known = {}
for id in (redis.call('HGET', agent, 'resume_id') or ''):gmatch('%S+') do
  if id ~= command then
    known[#known + 1] = id
  end
end
if not refused and #known < MOST then
  known[#known + 1] = command
end
redis.call('HSET', agent, 'resume_id', table.concat(known, ' '))
return 'ok'
