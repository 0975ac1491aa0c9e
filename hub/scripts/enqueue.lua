-- Takes spawns into the outbox: agent record, outbox entry and event in one step, so that an id which was returned is
-- never forgotten (fault rows 1, 2). Safe to run twice: an id with the same content is answered with what is there.
--
-- ARGV     now (ms), limit of waiting commands per spoke, length of the event stream, count, and for each spawn:
--          agent id, spoke, tenant, task id, agent type, content hash, command (JSON), deadline (ms, 0 for none), traceparent ('' for none)
--
-- Returns for each spawn {outcome, what is shown}: created, same, conflict or queue_full.
local now, limit, maxlen, count = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local rooms, results = {}, {}

local function room(tenant)
  if not rooms[tenant] then
    rooms[tenant] = limit - redis.call('ZCARD', p .. 'outbox:' .. tenant) - redis.call('ZCARD', p .. 'deferred:' .. tenant)
  end
  return rooms[tenant]
end

-- Known from an event only (fault 31): what it asked for was lost here, so the spoke decides whether it is the same.
local function add(sequence, known, id, spoke, tenant, task, kind, hash, command, deadline, trace)
  rooms[tenant] = room(tenant) - 1
  line_up(id, tenant, sequence)
  if deadline ~= '0' then
    place(p .. 'deadlines', id, deadline)
  end
  local agent = p .. 'agent:' .. id
  if known then
    redis.call('HSET', agent, 'spoke', spoke, 'tenant', tenant, 'task', task, 'type', kind, 'hash', hash,
      'command', command, 'sequence', sequence, 'delivery', 'pending', 'attempts', 0, 'error', '')
  else
    redis.call('HSET', agent, 'spoke', spoke, 'tenant', tenant, 'task', task, 'type', kind, 'hash', hash,
      'command', command, 'sequence', sequence, 'delivery', 'pending', 'attempts', 0, 'error', '',
      'created', now, 'status', 'pending', 'shown', 'pending', 'seq', 0)
    place(p .. 'agents', id, 0)
    place(p .. 'spoke:' .. spoke, id, 0)
    place(p .. 'task:' .. task, id, 0)
    show(id, spoke, tenant, nil, 'pending', now)
    emit(maxlen, id, spoke, task, 'pending', 0, 'pending', '')
  end
  if trace ~= '' then
    redis.call('HSET', agent, 'trace', trace)
  end
end

local sequence = redis.call('INCRBY', p .. 'sequence', count) - count
for i = 0, count - 1 do
  local id, spoke, tenant, task, kind, hash, command, deadline, trace = unpack(ARGV, 5 + i * 9, 13 + i * 9)
  local known = redis.call('HMGET', p .. 'agent:' .. id, 'spoke', 'tenant', 'hash', 'shown')
  if known[3] and known[1] == spoke and known[3] == hash then
    results[#results + 1] = {'same', known[4]}
  elseif known[3] or (known[1] and known[2] ~= tenant) then
    results[#results + 1] = {'conflict', known[4]}
  elseif room(tenant) <= 0 then
    results[#results + 1] = {'queue_full', ''}
  else
    add(sequence + i + 1, known[1], id, spoke, tenant, task, kind, hash, command, deadline, trace)
    results[#results + 1] = {'created', known[4] or 'pending'}
  end
end
flush()
return results
