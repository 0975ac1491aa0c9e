-- Finds agents, newest first, by the smallest of the indexes that the filters name; the others are checked one by one,
-- as far as the budget goes. Reads only.
--
-- ARGV     spoke, what is shown, task id, reason ('' for any), the id before which to begin ('' for the newest), limit,
--          budget, bytes that the records may have together; one is returned however large it is
--
-- Returns {agent ids, the id to go on from, or ''}.
local cursor, limit, budget, bytes = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local FIELDS = {'spoke', 'shown', 'task', 'reason'}
local wanted, smallest, size = {}, 'agents', math.huge
for i, field in ipairs(FIELDS) do
  if ARGV[i] ~= '' then
    wanted[#wanted + 1] = {field, ARGV[i]}
    local members = redis.call('ZCARD', p .. field .. ':' .. ARGV[i])
    if members < size then
      smallest, size = field .. ':' .. ARGV[i], members
    end
  end
end

local function matches(id)
  if #wanted < 2 then
    return true
  end
  for _, filter in ipairs(wanted) do
    if redis.call('HGET', p .. 'agent:' .. id, filter[1]) ~= filter[2] then
      return false
    end
  end
  return true
end

-- What is large in a record: what the spoke said last, and the spawn as it was asked.
local function size(id)
  local key = p .. 'agent:' .. id
  return redis.call('HSTRLEN', key, 'agent') + redis.call('HSTRLEN', key, 'command')
end

local found = {}
while budget > 0 do
  local upper = cursor == '' and '+' or '(' .. cursor
  local page = redis.call('ZREVRANGEBYLEX', p .. smallest, upper, '-', 'LIMIT', 0, 100)
  for _, id in ipairs(page) do
    if matches(id) then
      bytes = bytes - size(id)
      if bytes < 0 and #found > 0 then
        return {found, cursor}
      end
      found[#found + 1] = id
    end
    cursor, budget = id, budget - 1
    if #found == limit or budget == 0 then
      return {found, id}
    end
  end
  if #page < 100 then
    return {found, ''}
  end
end
return {found, cursor}
