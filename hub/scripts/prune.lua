-- Forgets agents that ended long ago, or that are too many: those that ended first at first. One that has not ended is
-- never touched. Safe to run twice: the second time finds what is left.
--
-- ARGV     the time (ms) up to which an end is long ago ('-inf' for never), how many ended ones are kept ('' for all), at
--          most so many at once
--
-- Returns the ids of those that it forgot.
local ended, most = p .. 'ended', tonumber(ARGV[3])
local surplus = ARGV[2] == '' and 0 or redis.call('ZCARD', ended) - tonumber(ARGV[2])
local old = redis.call('ZCOUNT', ended, '-inf', ARGV[1])
local count = math.min(math.max(surplus, old), most)
if count <= 0 then
  return {}
end
local ids = redis.call('ZRANGE', ended, 0, count - 1)
for _, id in ipairs(ids) do
  local known = redis.call('HMGET', p .. 'agent:' .. id, 'tenant', 'spoke', 'shown', 'task', 'kill_id', 'kill_state', 'reason', 'unasked',
    'delivery')
  if known[6] == 'pending' then
    drop(known[5], known[1])
  end
  if known[9] == 'pending' then
    drop_spawn(id, known[1]) -- asked for under the id of an agent that had ended: nobody is to be told any more
  end
  place(ended, id, false)
  if known[1] then
    for _, name in ipairs({'agents', 'spoke:' .. known[2], 'shown:' .. known[3], 'task:' .. known[4],
                           'at:' .. known[2] .. ':' .. known[3], 'taken:' .. known[1]}) do
      place(p .. name, id, false)
    end
    if known[8] then
      redis.call('HINCRBY', p .. 'peer:' .. known[1], 'taken_bytes', -redis.call('HSTRLEN', p .. 'agent:' .. id, 'agent'))
    end
    if known[7] then
      place(p .. 'reason:' .. known[7], id, false)
    end
  end
  finished[#finished + 1] = p .. 'agent:' .. id
end
flush()
return ids
