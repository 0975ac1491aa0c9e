-- Names agents that a spoke has, or may have because nobody heard its answer, and that have not ended as far as is known;
-- a page at a time. Reads only.
--
-- ARGV     what is shown of them, the id after which to begin ('' for the first), at most so many are looked at
--
-- Returns {the last id of this page, or '' after the last, agent id, tenant, ...}.
local ids = redis.call('ZRANGEBYLEX', p .. 'shown:' .. ARGV[1], '(' .. ARGV[2], '+', 'LIMIT', 0, ARGV[3])
local result = {#ids == tonumber(ARGV[3]) and ids[#ids] or ''}
for _, id in ipairs(ids) do
  local known = redis.call('HMGET', p .. 'agent:' .. id, 'tenant', 'delivery')
  if known[2] == 'delivered' or known[2] == 'expired' then
    result[#result + 1] = id
    result[#result + 1] = known[1]
  end
end
return result
