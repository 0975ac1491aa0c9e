-- Brings what an older hub left up to date, a page of agents at a time: makes p at:… and p living for agents that were
-- taken in before these were kept, and takes a waiting spawn's place and trials into its agent's record, from the hash of
-- its own that it had. Safe to run twice: begun anew it counts anew. Nothing else may run meanwhile.
--
-- ARGV     version, the id after which to begin ('' for the first), at most so many
--
-- Returns the last id of this page, or '' after the last, or when that version is kept already.
local version, after, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('GET', p .. 'indexed') == version then
  return ''
end
if after == '' then
  redis.call('DEL', p .. 'living')
end

local function move_spawn(id)
  local spawn = redis.call('HMGET', p .. 'cmd:' .. id, 'sequence', 'attempts')
  if spawn[1] then
    redis.call('HSET', p .. 'agent:' .. id, 'sequence', spawn[1], 'put_off', spawn[2] or 0)
    finished[#finished + 1] = p .. 'cmd:' .. id
  end
end

local ids = redis.call('ZRANGEBYLEX', p .. 'agents', '(' .. after, '+', 'LIMIT', 0, most)
for _, id in ipairs(ids) do
  local known = redis.call('HMGET', p .. 'agent:' .. id, 'spoke', 'tenant', 'shown', 'delivery')
  place(p .. 'at:' .. known[1] .. ':' .. known[3], id, 0)
  if not ENDED[known[3]] then
    born[known[2]] = (born[known[2]] or 0) + 1
  end
  if known[4] == 'pending' then
    move_spawn(id)
  end
end
flush()
if #ids < most then
  redis.call('SET', p .. 'indexed', version)
  return ''
end
return ids[#ids]
