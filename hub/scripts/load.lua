-- Counts agents by the connection they belong to, a page at a time. Reads only.
--
-- ARGV     what is shown of them, the id after which to begin ('' for the first), at most so many
--
-- Returns {the last id of this page, or '' after the last, tenant, count, ...}.
local ids = redis.call('ZRANGEBYLEX', p .. 'shown:' .. ARGV[1], ARGV[2] == '' and '-' or '(' .. ARGV[2], '+',
  'LIMIT', 0, ARGV[3])
local counts, result = {}, {#ids == tonumber(ARGV[3]) and ids[#ids] or ''}
for _, id in ipairs(ids) do
  local tenant = redis.call('HGET', p .. 'agent:' .. id, 'tenant')
  if tenant then
    counts[tenant] = (counts[tenant] or 0) + 1
  end
end
for tenant, count in pairs(counts) do
  result[#result + 1] = tenant
  result[#result + 1] = count
end
return result
