-- Finds agents, newest first, by the smallest of the indexes that the filters name; the others are asked about a page of
-- it at a time, as far as the budget goes: so what it costs does not follow how many agents there are. Reads only.
--
-- ARGV     spoke, what is shown, task id, reason ('' for any), the id before which to begin ('' for the newest), limit,
--          budget, bytes that the records may have together; one is returned however large it is
--
-- Returns {agent ids, the id to go on from, or ''}.
local cursor, limit, budget, bytes = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local wanted = {spoke = ARGV[1], shown = ARGV[2], task = ARGV[3], reason = ARGV[4], at = ''}
if wanted.spoke ~= '' and wanted.shown ~= '' then
  -- What is shown of a spoke's agents has an index of its own: two large sets may have little in common.
  wanted.at, wanted.spoke, wanted.shown = wanted.spoke .. ':' .. wanted.shown, '', ''
end
local smallest, size, others = p .. 'agents', math.huge, {}
for field, value in pairs(wanted) do
  if value ~= '' then
    local index = p .. field .. ':' .. value
    local members = redis.call('ZCARD', index)
    if members < size then
      others[#others + 1] = size < math.huge and smallest or nil
      smallest, size = index, members
    else
      others[#others + 1] = index
    end
  end
end

-- Which of these ids are in all the other indexes: asked of each once, for a page at a time.
local function matching(ids)
  for _, index in ipairs(others) do
    local left = {}
    if #ids > 0 then
      for at, score in ipairs(redis.call('ZMSCORE', index, unpack(ids))) do
        left[#left + 1] = score and ids[at] or nil
      end
    end
    ids = left
  end
  return ids
end

-- What is large in a record: what the spoke said last, and the spawn as it was asked.
local function size_of(id)
  local key = p .. 'agent:' .. id
  return redis.call('HSTRLEN', key, 'agent') + redis.call('HSTRLEN', key, 'command')
end

-- Most pages are filled by the first few ids; who looks for what is rare looks through more at a time.
local STEP, LARGEST = 100, 1000
local found, step = {}, STEP
while budget > 0 do
  local upper = cursor == '' and '+' or '(' .. cursor
  local page = redis.call('ZREVRANGEBYLEX', smallest, upper, '-', 'LIMIT', 0, math.min(step, budget))
  for _, id in ipairs(matching(page)) do
    bytes = bytes - size_of(id)
    if bytes < 0 and #found > 0 then
      return {found, cursor}
    end
    found[#found + 1], cursor = id, id
    if #found == limit then
      return {found, id}
    end
  end
  if #page < math.min(step, budget) then
    return {found, ''}
  end
  cursor, budget, step = page[#page], budget - #page, math.min(step * 2, LARGEST)
end
return {found, cursor}
