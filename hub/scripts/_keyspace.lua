-- The keyspace of a hub, and what several scripts do to an agent's record. This fragment stands before every script.
--
-- KEYS[1] is p, the prefix of every key of this hub; it holds the hash tag.
--
-- p sequence                 counter: the order of all commands
-- p outboxes                 set of tenants with something waiting
-- p outbox:<tenant>          sorted set: command id by sequence, ready to be sent
-- p deferred:<tenant>        sorted set: command id by the time (ms) before which it is not sent again
-- p deadlines                sorted set: command id by the time (ms) after which it is not sent any more
-- p cmd:<command id>         hash: kind (spawn or kill), agent, tenant, json, sequence, attempts
-- p agent:<agent id>         hash: spoke tenant task type hash command created; status shown seq agent has_result;
--                            delivery attempts error; kill_id kill_state kill_error
--                            `shown` is the status, or refused or expired where no spoke will ever say one
-- p agents, p spoke:<spoke>, p shown:<what is shown>, p task:<task id>
--                            sorted sets with score 0: agent ids in lexical order, which is the order of time
-- p events                   stream: agent spoke task status seq delivery reason
-- p replay:<issuer>:<jti>    mark of an envelope that was accepted
-- p peer:<tenant>            hash: contact (ms), failures, next (ms), error, hello (what it told when it opened a link)
local p = KEYS[1]

-- Moves an agent to the index of what is shown of it now.
local function show(id, shown)
  local before = redis.call('HGET', p .. 'agent:' .. id, 'shown')
  if before ~= shown then
    if before then
      redis.call('ZREM', p .. 'shown:' .. before, id)
    end
    redis.call('ZADD', p .. 'shown:' .. shown, 0, id)
    redis.call('HSET', p .. 'agent:' .. id, 'shown', shown)
  end
end

-- Tells the watchers about an agent as it is now; the stream keeps about maxlen of these.
local function emit(id, maxlen, reason)
  local known = redis.call('HMGET', p .. 'agent:' .. id, 'spoke', 'task', 'shown', 'seq', 'delivery')
  redis.call('XADD', p .. 'events', 'MAXLEN', '~', maxlen, '*', 'agent', id, 'spoke', known[1], 'task', known[2],
    'status', known[3], 'seq', known[4], 'delivery', known[5], 'reason', reason)
end

-- Takes a command out of a spoke's outbox, and the spoke out of the set of those for which something waits.
local function drop(command, tenant)
  local outbox, deferred = p .. 'outbox:' .. tenant, p .. 'deferred:' .. tenant
  redis.call('ZREM', outbox, command)
  redis.call('ZREM', deferred, command)
  redis.call('ZREM', p .. 'deadlines', command)
  redis.call('DEL', p .. 'cmd:' .. command)
  if redis.call('ZCARD', outbox) == 0 and redis.call('ZCARD', deferred) == 0 then
    redis.call('SREM', p .. 'outboxes', tenant)
  end
end

-- Puts a command at the end of a spoke's outbox.
local function put(command, kind, id, tenant, json)
  local sequence = redis.call('INCR', p .. 'sequence')
  redis.call('HSET', p .. 'cmd:' .. command, 'kind', kind, 'agent', id, 'tenant', tenant, 'json', json,
    'sequence', sequence, 'attempts', 0)
  redis.call('ZADD', p .. 'outbox:' .. tenant, sequence, command)
  redis.call('SADD', p .. 'outboxes', tenant)
end

