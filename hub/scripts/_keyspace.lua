-- The keyspace of a hub, and what several scripts do to an agent's record. This fragment stands before every script.
--
-- KEYS[1] is p, the prefix of every key of this hub; it holds the hash tag.
--
-- p sequence                 counter: the order of all commands
-- p outboxes                 set of tenants with something waiting
-- p outbox:<tenant>          sorted set: command id by sequence, ready to be sent
-- p deferred:<tenant>        sorted set: command id by the time (ms) before which it is not sent again
-- p deadlines                sorted set: command id by the time (ms) after which it is not sent any more
-- p cmd:<command id>         hash, for all but spawns: kind (kill, freeze or thaw), agent ('' for the last two), tenant,
--                            json, sequence, put_off (how often the spoke refused it for now; not there for never), trace
--                            (the traceparent of what asked for it; not there where nothing did)
-- p agent:<agent id>         hash: spoke tenant task type hash created; command (JSON), sequence, put_off and trace of the
--                            spawn, whose id is the agent's; status shown seq agent has_result reason; delivery (pending
--                            while the spawn is in the outbox), attempts error; kill_id kill_state kill_error; resume_id: the resumes that
--                            were asked for and neither refused nor seen to take effect; unasked (1 for those in taken:)
--                            `shown` is the status, or refused or expired where no spoke will ever say one
-- p agents, p spoke:<spoke>, p shown:<what is shown>, p task:<task id>,
-- p reason:<why it ended>, p at:<spoke>:<what is shown>
--                            sorted sets with score 0: agent ids in lexical order, which is the order of time
-- p living                   hash: how many agents have not ended, by tenant
-- p indexed                  which version of p at:… and p living is kept, from the first agent on (index.lua)
-- p ended                    sorted set: agent ids by the time (ms) at which this hub learned of their end
-- p events                   stream: agent spoke task status seq delivery reason
-- p webhooks                 hash: how far a webhook has been told and how that goes (JSON), by the webhook's id
-- p taken:<tenant>           sorted set with score 0: the agents of which the spoke told first, before this hub knew them;
--                            how many bytes it told of them is taken_bytes of p peer:<tenant>
-- p replay:<issuer>:<jti>    mark of an envelope that was accepted
-- p rate:<issuer>            hash: since (ms), used: envelopes in the second that began then
-- p generation, p accepted   which store this is, and how many envelopes it accepted (common/store_mark.py)
-- p peer:<tenant>            hash: contact (ms), tried (ms of the last envelope to it), answered (ms of its last answer),
--                            failing (ms since when, only while it does), failures, next (ms), error;
--                            hello (what it told when it opened a link);
--                            frozen (1 or 0: what the spoke said); of the latest freeze or thaw: latch (which), latch_id,
--                            latch_state, latch_error, latch_killed, latch_at (ms), latch_reason; latch_kill_id: the
--                            freeze that kills and waits
local p = KEYS[1]

-- What the script does to sorted sets is gathered and written by `flush`, its last step: one call per key costs far less
-- than one per agent. What is put into a set and taken out of it in one run is out: a command that was settled must not
-- come back, whatever else was said in the same envelope.
local added, removed, finished, touched, born = {}, {}, {}, {}, {}

local function list_of(lists, key)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  return list
end

-- Puts a member into a sorted set; a score of false takes it out.
local function place(key, member, score)
  if score then
    local list = list_of(added, key)
    local n = #list
    list[n + 1], list[n + 2] = score, member
  else
    local list = list_of(removed, key)
    list[#list + 1] = member
  end
end

local AT_ONCE = 4000 -- `unpack` takes no 8000, and scores stand with their members

-- Yields the list in pieces of which each can be the arguments of one call.
local function pieces(list)
  local from = 1 - AT_ONCE
  return function()
    from = from + AT_ONCE
    if from <= #list then
      return {unpack(list, from, math.min(from + AT_ONCE - 1, #list))}
    end
  end
end

local function flush()
  for key, members in pairs(added) do
    for piece in pieces(members) do
      redis.call('ZADD', key, unpack(piece))
    end
  end
  for key, members in pairs(removed) do
    for piece in pieces(members) do
      redis.call('ZREM', key, unpack(piece))
    end
  end
  for piece in pieces(finished) do
    redis.call('DEL', unpack(piece))
  end
  for tenant, more in pairs(born) do
    if more ~= 0 then
      redis.call('HINCRBY', p .. 'living', tenant, more)
    end
  end
  for tenant in pairs(touched) do
    if redis.call('ZCARD', p .. 'outbox:' .. tenant) == 0 and redis.call('ZCARD', p .. 'deferred:' .. tenant) == 0 then
      redis.call('SREM', p .. 'outboxes', tenant)
    else
      redis.call('SADD', p .. 'outboxes', tenant)
    end
  end
end

local ENDED = {completed = true, failed = true, killed = true, refused = true, expired = true}

-- Moves an agent of a spoke from the indexes of what was shown of it (nil for a new one) to those of what is shown now
-- (ms), and counts those of its tenant that have not ended. Once per agent and run.
local function show(id, spoke, tenant, before, shown, now)
  if before == shown then
    return
  end
  local at = p .. 'at:' .. spoke .. ':'
  if before then
    place(p .. 'shown:' .. before, id, false)
    place(at .. before, id, false)
  end
  place(p .. 'shown:' .. shown, id, 0)
  place(at .. shown, id, 0)
  if ENDED[shown] or ENDED[before] then
    place(p .. 'ended', id, ENDED[shown] and now or false)
  end
  local lived, lives = before and not ENDED[before], not ENDED[shown]
  if lived ~= lives then
    born[tenant] = (born[tenant] or 0) + (lives and 1 or lived and -1 or 0)
  end
end

-- Whether an issuer is over `rate` envelopes in the second that began with one of them, on this server's clock.
local function too_fast(issuer, rate)
  local counter, time = p .. 'rate:' .. issuer, redis.call('TIME')
  local at = time[1] * 1000 + math.floor(time[2] / 1000)
  local since = tonumber(redis.call('HGET', counter, 'since') or 0)
  -- When the clock was set back the expiry is an hour away: the count must not last as long.
  if at < since or at >= since + 1000 then
    redis.call('HSET', counter, 'since', string.format('%.0f', at), 'used', 0)
    redis.call('PEXPIRE', counter, 1000)
  end
  return redis.call('HINCRBY', counter, 'used', 1) > tonumber(rate)
end

-- Notes an accepted envelope, marked `issuer:jti`: its number; false when it was accepted before; 'too_fast' when its
-- issuer sends more than `rate` a second; 'lost' when this is not the store that the hub knows by its generation and
-- counter, or an old copy of it, and the marks are not in it (common/store_mark.py).
local function accept(mark, life, rate, generation, seen)
  if (redis.call('GET', p .. 'generation') or '') ~= generation
    or tonumber(redis.call('GET', p .. 'accepted') or 0) < tonumber(seen) then
    return 'lost'
  end
  if too_fast(mark:match('^[^:]+'), rate) then
    return 'too_fast'
  end
  return redis.call('SET', p .. 'replay:' .. mark, '1', 'NX', 'PX', life) and redis.call('INCR', p .. 'accepted')
end

-- Tells the watchers about an agent; the stream keeps about maxlen of these.
local function emit(maxlen, id, spoke, task, shown, seq, delivery, reason)
  redis.call('XADD', p .. 'events', 'MAXLEN', '~', maxlen, '*', 'agent', id, 'spoke', spoke, 'task', task,
    'status', shown, 'seq', seq, 'delivery', delivery, 'reason', reason)
end

-- Takes a command out of a spoke's outbox.
local function leave(command, tenant)
  place(p .. 'outbox:' .. tenant, command, false)
  place(p .. 'deferred:' .. tenant, command, false)
  touched[tenant] = true
end

local function drop_spawn(id, tenant)
  leave(id, tenant)
  place(p .. 'deadlines', id, false)
end

-- The same for any other command, which has a hash of its own.
local function drop(command, tenant)
  leave(command, tenant)
  finished[#finished + 1] = p .. 'cmd:' .. command
end

-- Lets a command wait in a spoke's outbox, at its place among all commands. That of a spawn is in its agent's record.
local function line_up(command, tenant, sequence)
  place(p .. 'outbox:' .. tenant, command, sequence)
  touched[tenant] = true
end

-- Keeps a command that is no spawn and lets it wait; `trace` '' for none.
local function put(command, kind, id, tenant, json, trace)
  local sequence = redis.call('INCR', p .. 'sequence')
  redis.call('HSET', p .. 'cmd:' .. command, 'kind', kind, 'agent', id, 'tenant', tenant, 'json', json,
    'sequence', sequence)
  if trace ~= '' then
    redis.call('HSET', p .. 'cmd:' .. command, 'trace', trace)
  end
  line_up(command, tenant, sequence)
end
